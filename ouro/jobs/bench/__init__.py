"""Everything that measures speed, or sweeps over methods, widths, sets and seeds; speed only behind a gate."""
