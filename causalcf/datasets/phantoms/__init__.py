"""Data sets that are drawn: look-alikes of the studies, with known structural causal models; see `studies`."""
