"""Contracts and runners: all that a device needs beside the application. numpy in, numpy out; no torch, no video files."""

from vidrisk.runtimes.bundle import Bundle, Graph, Manifest, SealedFile, Variant, VariantName, write_bundle
from vidrisk.runtimes.contract import Contract, Guidance, Target
from vidrisk.runtimes.runner import FakeRunner, Runner
from vidrisk.runtimes.select import Choice, choose, open_runner
from vidrisk.runtimes.specs import PixelSpec, TensorSpec, TimeSpec

__all__ = [
    "Bundle",
    "Choice",
    "Contract",
    "FakeRunner",
    "Graph",
    "Guidance",
    "Manifest",
    "PixelSpec",
    "Runner",
    "SealedFile",
    "Target",
    "TensorSpec",
    "TimeSpec",
    "Variant",
    "VariantName",
    "choose",
    "open_runner",
    "write_bundle",
]
