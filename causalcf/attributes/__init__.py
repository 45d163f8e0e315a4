"""Mechanisms of attributes, one family a file. Abduction is in float64.

mechanism     noise u           value
Flow          N(0, 1)           an invertible map of u, a spline and an affine map that the parents shape
Categorical   Gumbel(0, 1)^K    argmax_k [log p_k(pa) + u_k]
"""

from causalcf.attributes.categorical import Categorical
from causalcf.attributes.flow import Flow

__all__ = ["Categorical", "Flow"]
