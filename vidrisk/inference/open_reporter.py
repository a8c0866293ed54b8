"""Opening of a bundle that writes reports: its vision stages and text graph, or a server in place of both."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import scheme_from_text
from vidrisk.inference.open_stages import open_stages, provenance_of
from vidrisk.inference.prompt_builders import ChatPrompts, GraphPrompts
from vidrisk.inference.reporter import Reporter
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.contract.manifest import TEXT, ReportPart
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.registry import exact_runtimes, fits
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.server_engine import ServerEngine
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary
from vidrisk.runtimes.uncertainty import Uncertainty, uncertainty_from_variant

log = logging.getLogger(__name__)

SEQUENCES = 8  # generated at a time
BY_SERVER = "a server reports no probabilities of levels"


@dataclass(frozen=True)
class TextServer:
    """A server that replaces a bundle's own graphs; its key is in ``server_engine.KEY_VARIABLE``.

    Attributes:
        url: ``http://host:port/v1``.
        model: name of the model on the server.
    """

    url: str
    model: str


def open_reporter(
    path: str | Path,
    *,
    runtime: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    sequences: int = SEQUENCES,
    answer_tokens: int | None = None,
    server: TextServer | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Reporter:
    """Open a bundle that writes reports.

    Args:
        path: path of the bundle.
        runtime: runtime of the vision stages; ``auto`` takes the fastest one, measured once on this machine. The text
            graph runs on ONNX Runtime.
        variant: ``auto`` takes the variant with the smallest text graph among those that passed the gate, because a
            processor reads the whole graph for every token.
        threads: threads of the engines; None leaves the number to them.
        sequences: maximum number of answers that are generated at a time; fewer if memory is short.
        answer_tokens: limit of an answer; None takes the bundle's.
        server: server that answers; then no graph is opened.
        on_progress: called while engines are built: name, steps done, steps in all.

    Raises:
        BundleError: no such bundle, one that answers with labels, a damaged one, or no such variant.
        SettingsError: a limit that leaves no room for a prompt, a runtime that cannot read bundles, a bad URL.
        RuntimeFailure: an engine refuses a graph, or no server answers.
        MissingExtra: an engine, tokenizers or llguidance is not installed.
    """
    bundle = Bundle.open(path)
    part = bundle.manifest.report
    if part is None:
        raise BundleError(
            f"{bundle.root.name} answers with labels and writes no reports",
            allowed="a bundle of the task report",
            fix=f"vidrisk infer {bundle.root.name} PATH… -o OUT",
        )
    if answer_tokens is not None and not 1 <= answer_tokens < part.positions:
        raise SettingsError(
            f"answer_tokens {answer_tokens}", allowed=f"1 to {part.positions - 1}, less what a prompt takes"
        )
    scheme = _scheme_of(bundle, part)
    opened = partial(
        Reporter,
        bundle.contract,
        scheme,
        system=part.system,
        answer_tokens=answer_tokens or part.answer_tokens,
        threads=threads,
    )
    targets = bundle.contract.targets
    if server is not None:
        engine = ServerEngine(server.url, server.model)
        return opened(
            ChatPrompts(),
            engine,
            runtime="server",
            variant=server.model,
            temperature={},
            is_server=True,
            uncertainty=Uncertainty(reasons=dict.fromkeys((target.name for target in targets), BY_SERVER)),
            provenance={**provenance_of(bundle), "text server": server.url},
        )
    with ExitStack() as stack:
        wanted = _lightest(bundle, runtime) if variant == "auto" else variant
        choice, runners = open_stages(bundle, runtime=runtime, variant=wanted, threads=threads, on_progress=on_progress)
        for runner in runners:
            stack.callback(runner.close)
        chosen = bundle.manifest.variants[choice.variant]
        vocabulary = Vocabulary(bundle.root / part.tokenizer, part.ends)
        session = _open_session(bundle, part, chosen.files[TEXT], sequences, threads)
        stack.callback(session.close)
        _check_width(bundle, session)
        text_engine = GraphEngine(session, vocabulary)
        prompts = GraphPrompts(
            bundle.stages, runners, bundle.contract.pixel, vocabulary, part.pieces, part.ends[0], session.tokens
        )
        stack.pop_all()
    return opened(
        prompts,
        text_engine,
        runtime=choice.runtime,
        variant=choice.variant,
        is_server=False,
        temperature=chosen.temperature,
        provenance=provenance_of(bundle, chosen),
        uncertainty=uncertainty_from_variant(chosen, targets),
    )


def _scheme_of(bundle: Bundle, part: ReportPart) -> Scheme | None:
    if part.scheme is None:
        return None
    name = f"{part.scheme} in {bundle.root.name}"
    try:
        text = (bundle.root / part.scheme).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{name} cannot be read: {error}", fix="copy the bundle again, whole") from error
    scheme = scheme_from_text(text, name)
    targets = bundle.contract.targets
    if len(targets) != 1 or targets[0].labels != scheme.level_names:
        raise BundleError(
            f"{name} has the levels {', '.join(scheme.level_names)}, which are not those of the contract",
            fix="export the bundle again",
        )
    return scheme


def _lightest(bundle: Bundle, runtime: str) -> str:
    """Return the variant that passed, fits the runtime and has the smallest text graph, or ``auto``."""
    runtimes = exact_runtimes() if runtime == "auto" else (runtime,)
    variants = bundle.manifest.variants
    fitting = [name for name in bundle.passed if any(fits(variants[name].engines, each) for each in runtimes)]
    return min(fitting, key=lambda name: _bytes_of(bundle, variants[name].files[TEXT]), default="auto")


def _bytes_of(bundle: Bundle, graph: str) -> int:
    """Return the size of a graph, including external weights."""
    files = bundle.manifest.files
    return sum(files[name].bytes for name in (graph, f"{graph}.data") if name in files)


def _check_width(bundle: Bundle, session: TextSession) -> None:
    visual = bundle.stages[-1].outputs[0]
    if visual.shape[-1] != session.shape.width:
        raise BundleError(
            f"{bundle.root.name} gives visual tokens {visual}, and its text graph takes tokens of width "
            f"{session.shape.width}",
            fix="export the bundle again",
        )


def _open_session(bundle: Bundle, part: ReportPart, graph: str, sequences: int, threads: int | None) -> TextSession:
    """Open the text graph for as many sequences as fit into memory."""
    for count in (*(each for each in (sequences, 4, 2) if each <= sequences), 1):
        try:
            return TextSession(
                bundle.root / graph,
                bundle.root / part.embeddings,
                sequences=count,
                tokens=part.positions,
                threads=threads,
            )
        except SettingsError as error:
            if count == 1:
                raise
            log.info("%d sequences at a time: %s", count, error)
    raise AssertionError("one sequence was tried last")
