"""Which mechanisms an attribute may get when the user leaves it unnamed."""

from __future__ import annotations

from causalcf.attributes.base import AttributeMechanism
from causalcf.attributes.categorical import Categorical
from causalcf.attributes.flow import Flow
from causalcf.graph import Node

__all__ = ["attribute_mechanism"]


def attribute_mechanism(node: Node) -> AttributeMechanism:
    """The mechanism of an attribute that the user left unnamed."""
    return Categorical() if node.discrete else Flow()
