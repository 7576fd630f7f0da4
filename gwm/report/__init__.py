"""HTML reports, charts as SVG, and the machine that they were measured on."""
