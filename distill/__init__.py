"""Distillation. Read `dmd` and `student_forcing` (the mathematics), then the stages `consistency` and `dmd_stage`."""
