"""The networks of the demonstration, by name. Imports nothing, so that help can list them."""

from __future__ import annotations

# name -> module and function that build the float model
NETWORKS = {
    "mobilenet_v2": ("lpir.demo.mobilenet", "mobilenet_v2"),
    "efficientnet_lite0": ("lpir.demo.efficientnet", "efficientnet_lite0"),
}
