"""x"""

from __future__ import annotations

from typing import Any


def timeline(events: Any, queue: Any) -> Any:
    """x"""
