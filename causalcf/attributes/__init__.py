"""Mechanisms of attributes, one family a file. Abduction is in float64.

    mechanism        noise u                     value
    LinearGaussian   N(0, 1)                     a + b . pa + s u
    AdditiveNoise    the residuals'              f(pa) + u, f a scikit-learn regressor
    LocationScale    the residuals'              m(pa) + s(pa) u
    Flow             N(0, 1)                     a spline and an affine map of u that the parents shape
    Empirical        N(0, 1)                     T(u), the quantiles of the data; for roots
    Equation         any                         f(u, pa), known
    Categorical      Gumbel(0, 1)^K              argmax_k [log p_k(pa) + u_k]
    Monotone         U(0, 1)                     the state in whose part of the unit interval u falls
    ResponseType     one state a configuration   what u says of this configuration of the parents

Numbers that were fitted are mapped onto the node's support last; known ones, of LinearGaussian and Equation, are what they are.
"""

from causalcf.attributes.categorical import Categorical
from causalcf.attributes.empirical import Empirical
from causalcf.attributes.equation import Equation
from causalcf.attributes.flow import Flow
from causalcf.attributes.monotone import Monotone
from causalcf.attributes.regression import AdditiveNoise, LinearGaussian, LocationScale
from causalcf.attributes.response import ResponseType

__all__ = [
    "AdditiveNoise",
    "Categorical",
    "Empirical",
    "Equation",
    "Flow",
    "LinearGaussian",
    "LocationScale",
    "Monotone",
    "ResponseType",
]
