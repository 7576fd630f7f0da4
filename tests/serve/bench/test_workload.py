"""What is timed computes what the engine computes: else its times would say nothing."""

import pytest
import torch

from serve.bench.case import Case, random_models
from serve.bench.workload import Options, Workload

CASE = Case(shape="small_wan", height=32, width=48, window_frames=4, text_tokens=3, decoder=False)
FP32 = 1e-5
CHUNKS = 5  # round the ring


@pytest.mark.parametrize("options", [Options(packed=True), Options(batch_size=2)], ids=["packed", "batch"])
@torch.no_grad()
def test_options_change_the_way_and_not_the_stream(options: Options):
    models = random_models(CASE.contract(), device=torch.device("cpu"), dtype=torch.float32)
    plain, other = Workload(CASE, models, Options()), Workload(CASE, models, options)
    text = plain.condition["text"]
    other.reference.copy_(plain.reference.expand_as(other.reference))
    other.condition["text"].copy_(text.expand_as(other.condition["text"]))
    streams = []
    for workload in (plain, other):
        workload.start()
        noise = workload.rollout.noises
        workload.rollout.noises = lambda noise=noise: [drawn[:1].expand_as(drawn) for drawn in noise()]
        streams.append(torch.cat([workload.denoise() for _ in range(CHUNKS)], dim=1))
    for row in streams[1]:
        torch.testing.assert_close(row[None], streams[0], rtol=FP32, atol=10 * FP32)
    assert models[0].blocks[0].attention.packed is None, "others time the same weights as they are"
