"""The selective scan: its definition, its compiled form, and the order in which it reads an image."""

from ouro.scan.dispatch import BackendError, selective_scan

__all__ = ["BackendError", "selective_scan"]
