"""``vidrisk infer``: batched, resumable prediction of files, folders and globs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.runtimes.contract.choices import FrameChoice, RuntimeChoice, VariantChoice

Frames = Annotated[
    FrameChoice, typer.Option(help="keyframes: use the last keyframe before every moment, and decode nothing else.")
]
SkipStatic = Annotated[
    float,
    typer.Option(
        min=0,
        max=255,
        metavar="LEVELS",
        help="Skip frames whose luma differs from the last encoded one by less than LEVELS of 255 everywhere; "
        "0 encodes all.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, max=64, metavar="N", help="Decode processes.", show_default="cores, at most 8")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, metavar="N", help="Threads of the engine.", show_default="all cores")
]
FileTimeout = Annotated[
    float,
    typer.Option(
        min=0.1, max=86400, metavar="S", help="Give up on a file if its decoder does not respond for S seconds."
    ),
]
MaxMemory = Annotated[int, typer.Option(min=64, max=1048576, metavar="MB", help="Memory limit of a decode process.")]
AnswerTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="For bundles that write reports: maximum tokens per answer.",
        show_default="the bundle's",
    ),
]
TextServerUrl = Annotated[
    str | None,
    typer.Option(
        "--text-server",
        metavar="URL",
        help="Get answers from an OpenAI-compatible server, http://host:port/v1; key: VIDRISK_TEXT_KEY.",
    ),
]
TextModel = Annotated[str | None, typer.Option("--text-model", metavar="NAME", help="Name of the model on the server.")]


def infer(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle that `vidrisk export` made, or a run.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="Clips, photos: files, folders, quoted globs; for reports also list.txt and tables of cases.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="New folder for the results.")],
    runtime: Annotated[
        RuntimeChoice,
        typer.Option(help="Engine; auto takes the fastest measured here. TensorRT engines are built once, first."),
    ] = "auto",
    variant: Annotated[
        VariantChoice, typer.Option(help="Precision; auto takes the fastest that passed the gate.")
    ] = "auto",
    window: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Predict windows of S seconds, and merge adjacent ones with the same label into segments.",
            show_default="as trained",
        ),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Start a window every S seconds. Overlap costs little: a frame is decoded and encoded once.",
            show_default="window",
        ),
    ] = None,
    frames: Frames = "all",
    skip_static: SkipStatic = 0.0,
    workers: Workers = None,
    threads: Threads = None,
    file_timeout: FileTimeout = 60.0,
    max_memory: MaxMemory = 2048,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in OUT. Files that have changed since are processed again."),
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write predictions.parquet.")] = False,
    save_features: Annotated[
        bool, typer.Option("--save-features", help="Also save the encoder's features of every frame, under features/.")
    ] = False,
    feature_cache: Annotated[
        bool,
        typer.Option("--feature-cache/--no-feature-cache", help="Cache the features of files, and reuse cached ones."),
    ] = False,
    enter: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="A segment begins when a label is the most probable one and has at least P; of a multi-label target, "
            "when the label holds.",
        ),
    ] = 0.5,
    leave: Annotated[
        float, typer.Option(metavar="P", help="A segment continues while its label has at least P.")
    ] = 0.35,
    question: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            show_default=False,
            help="Instead of writing reports, ask this free-form question about each photo, or about the photos of "
            "each case of a table.",
        ),
    ] = None,
    answer_tokens: AnswerTokens = None,
    text_server: TextServerUrl = None,
    text_model: TextModel = None,
    classifier_run: Annotated[
        Path | None,
        typer.Option(
            "--classifier",
            metavar="OUT",
            show_default=False,
            help="Output folder of a classifier over the same photos: reports use its levels, and disagreements are "
            "shown.",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default="that of each table", help="Base folder of relative photo paths in tables."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="TRUTH",
            show_default=False,
            help="Compare reports with these labelled cases, as `vidrisk compare` does.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave report.html out.")] = False,
    progress: Annotated[
        bool,
        typer.Option(
            "--progress", help="Show files/s, clips/s, the queue and the bottleneck; as lines if there is no terminal."
        ),
    ] = False,
) -> None:
    """Predict clips and photos into OUT: predictions, segments, ledger, summary and report.

    The files are predictions.jsonl, segments.jsonl, ledger.sqlite, summary.json and report.html.

    A bundle that writes reports answers for every photo, and for every case of a .csv, .xlsx, .jsonl or .parquet file,
    according to its scheme or the --question. An input that cannot be read is recorded in the ledger with the reason,
    and the run goes on; the exit code is then 4.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.infer_view import note_from_pace, print_left_out, print_summary
    from vidrisk.cli.refused import refuse_options
    from vidrisk.decode.pool import DecodePool, default_workers
    from vidrisk.inference.model import open_classifier
    from vidrisk.inference.open_stages import writes_reports
    from vidrisk.jobs.ledger import resolve_choice
    from vidrisk.jobs.run_folder import run_folder
    from vidrisk.jobs.run_settings import InferSettings
    from vidrisk.jobs.segments import Hysteresis
    from vidrisk.jobs.sources import find_inputs
    from vidrisk.report import build_report
    from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED

    if writes_reports(bundle):
        from vidrisk.cli.compare_view import print_comparison
        from vidrisk.cli.infer_reports import infer_reports, server_from_options
        from vidrisk.jobs.report_settings import ReportSettings

        refuse_options(
            {
                "--window": window is not None,
                "--stride": stride is not None,
                "--frames": frames != "all",
                "--skip-static": skip_static != 0,
                "--save-features": save_features,
                "--feature-cache": feature_cache,
                "--enter": enter != Hysteresis.enter,
                "--leave": leave != Hysteresis.leave,
            },
            "is not for a bundle that writes reports",
        )
        refuse_options(
            {
                "--compare": question is not None and compare is not None,
                "--classifier": question is not None and classifier_run is not None,
            },
            "is not for a --question, whose answers have no level",
        )
        summary, comparison, result = infer_reports(
            bundle,
            paths,
            out,
            ReportSettings(workers or default_workers(), file_timeout, max_memory, resume, parquet, question),
            engine=(runtime, variant),
            threads=threads,
            answer_tokens=answer_tokens,
            server=server_from_options(text_server, text_model),
            has_report=not no_report,
            shows_lines=progress,
            truth=compare,
            classifier=classifier_run,
            photos=photos,
        )
        print_summary(summary, result, as_json=json_output)
        if comparison is not None and not json_output:
            print_comparison(comparison, result, as_json=False)
        if summary.failed:
            raise typer.Exit(EXIT_SOME_FAILED)
        return
    refuse_options(
        {
            "--question": question is not None,
            "--answer-tokens": answer_tokens is not None,
            "--text-server": text_server is not None,
            "--text-model": text_model is not None,
            "--compare": compare is not None,
            "--classifier": classifier_run is not None,
            "--photos": photos is not None,
        },
        "is for bundles that write reports",
    )
    settings = InferSettings(
        window_s=window,
        stride_s=stride,
        workers=workers or default_workers(),
        frames=frames,
        static_levels=skip_static,
        file_timeout_s=file_timeout,
        max_memory_mb=max_memory,
        resume=resume,
        parquet=parquet,
        save_features=save_features,
        feature_cache=feature_cache,
        hysteresis=Hysteresis(enter, leave),
    )
    inputs = find_inputs(paths)
    print_left_out(inputs.left_out)
    asked = runtime, variant
    chosen = resolve_choice(out, *asked) if resume else asked
    with DecodePool(settings.workers) as pool:
        if not (feature_cache or resume):  # the cache is passed to workers at their start; little may be left to do
            pool.warm_up(len(inputs.paths))
        with (
            progress_bar(lines=progress) as advance,
            open_classifier(
                bundle, runtime=chosen[0], variant=chosen[1], threads=threads, on_progress=advance
            ) as classifier,
        ):
            summary = run_folder(
                classifier,
                inputs,
                out,
                settings,
                pool=pool,
                cards=0 if no_report else len(inputs.paths),
                on_progress=lambda p: advance(
                    "predict", p.files, p.files_total, note_from_pace(p.pace) if progress and p.pace else ""
                ),
            )
        page = None if no_report else build_report(out, pool)
    print_summary(summary, page or out, as_json=json_output)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
