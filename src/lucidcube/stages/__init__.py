"""The stages; importing this package registers them."""

from lucidcube.stages.rebin import Rebin

__all__ = ["Rebin"]
