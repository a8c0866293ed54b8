"""Opening of the stages of a bundle, and checks of a bundle before any of its graphs is opened."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from vidrisk.runtimes import Bundle, Runner, choose, open_runner
from vidrisk.runtimes.contract.bundle import MANIFEST, Variant, VariantName
from vidrisk.runtimes.contract.errors import BundleError, EngineMissing, SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.registry import ENGINE_KINDS, possible_runtimes
from vidrisk.runtimes.select import Choice


def open_stages(
    bundle: Bundle, *, runtime: str, variant: str, threads: int | None, on_progress: OnProgress
) -> tuple[Choice, list[Runner]]:
    """Choose a runtime and a variant, and open the stages of a bundle with them.

    Raises:
        SettingsError: torch, or another runtime that cannot read bundles.
        BundleError, MissingExtra, RuntimeFailure: as ``choose`` and ``open_runner``.
    """
    if runtime == "torch":
        raise SettingsError(
            f"{bundle.root.name} is a bundle, which torch cannot read",
            allowed=f"auto, {', '.join(possible_runtimes())}",
            fix="give the run directory instead",
        )
    opened = partial(_open_with_engine, on_progress=on_progress)
    choice = choose(bundle, runtime=runtime, variant=variant, threads=threads, opened=opened)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(
                opened(bundle, stage.name, runtime=choice.runtime, variant=choice.variant, threads=threads)
            )
            for stage in bundle.stages
        ]
        stack.pop_all()
    return choice, runners


def writes_reports(path: Path) -> bool:
    """Return whether a folder is a bundle that writes reports; False if it is not a bundle.

    Opening such a folder raises the error.
    """
    try:
        return json.loads((path / MANIFEST).read_bytes()).get("report") is not None
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def provenance_of(bundle: Bundle, variant: Variant | None = None) -> dict[str, str]:
    """Return the origin of a bundle: name, digest, versions, and what was waived for the variant."""
    return {
        "model": bundle.root.resolve().name,
        "digest": bundle.digest,
        "created": bundle.manifest.created,
        **({"waived": variant.waived} if variant and variant.waived else {}),
        **{f"made with {name}": version for name, version in bundle.manifest.made_with.items()},
    }


def refuse_reports(bundle: Bundle) -> None:
    """Check that a bundle answers with labels.

    Raises:
        BundleError: it writes reports; the error names the commands for it.
    """
    if bundle.manifest.report is not None:
        name = bundle.root.name
        raise BundleError(
            f"{name} writes reports, but labels are required here",
            allowed="a bundle that answers with labels",
            fix=f"vidrisk infer {name} PATH… -o OUT writes reports, vidrisk ask {name} PHOTO QUESTION answers",
        )


def _open_with_engine(
    bundle: Bundle, graph: str, *, runtime: str, variant: VariantName, threads: int | None, on_progress: OnProgress
) -> Runner:
    """Call ``open_runner``, after building the engine if it is missing."""
    try:
        return open_runner(bundle, graph, runtime=runtime, variant=variant, threads=threads)
    except EngineMissing:
        from vidrisk.runtimes.tensorrt.build.engines import ensure_engines  # imported only if something has to be built

        ensure_engines(bundle, ENGINE_KINDS[runtime], [variant], on_progress)
        return open_runner(bundle, graph, runtime=runtime, variant=variant, threads=threads)
