"""Translation of library errors to the command line: the library names arguments, the command line options."""

from __future__ import annotations

from vidrisk.runtimes.contract.errors import VidriskError

# Library wording → command-line wording, in the parts "allowed" and "fix".
FLAGS = {
    "the window or the stride": "--window or --stride",
    "run it again with resume, which": "the same command with --resume",
    "run it again with resume": "run again with --resume",
    "resume with the same tune": "--resume with the same --tune",
    "add tune, or leave tune_minutes out": "add --tune, or leave --tune-minutes out",
    "train without tune": "leave --tune out",
    "resume=True continues": "--resume continues",
    "use fewer workers": "fewer --workers",
    "run infer with save_features": "vidrisk infer … --save-features",
    "runtime torch, variant fp32": "--runtime torch, --variant fp32",
    "another folder for move_done": "another folder for --move-done",
    "labelled data as val": "labelled data with --val",
    "leave val out": "leave --val out",
    "leave calib out": "leave --calib out",
    "give data as calib": "give data with --calib",
    "give more as calib, or a greater calib_samples": "give more with --calib or --calib-samples",
    "ask for wheels, or leave python out": "add --wheels, or leave --python out",
    "leave wheels out": "leave --wheels out",
    "give another python": "give another --python",
    "export it for TensorRT and the target": "vidrisk export RUN -o BUNDLE --int8 --trt --target",
    "force a new split": "vidrisk data split --force",
    "name the sheet to read": "name the sheet to read (--sheet)",
    "use the task": "use --task",
    "read the data set without strict": "leave --strict out",
    "read the data without strict": "leave --strict out",
    "convert without strict": "leave --strict out",
    "name the scheme that the data are written in": "name the scheme that the data are written in (--scheme)",
    "name the scheme of the reports": "name the scheme of the reports (--scheme)",
    "a truth, the run of a classifier, or both": "TRUTH, --classifier, or both",
    "compare the run first": "vidrisk compare OUT TRUTH",
    "name the format; the error then says": "name it with --format; the error then says",
    "name the encoding of the whole file": "name the encoding of the whole file (--encoding)",
    "give infer a question": 'vidrisk infer … --question "QUESTION"',
    "compare a run without a question": "compare a run without --question",
    "use another runtime": "use another --runtime",
    "use tensorrt-rtx": "use --engine tensorrt-rtx",
    "the target any": "--target any",
    "name compute capabilities, such as 8.6, of other GPUs": "--compute-capability 8.6,8.9 builds for other GPUs",
    "a smaller batch": "a smaller --batch",
    "export for TensorRT, which": "export with --trt, which",
    "another variant": "another --variant",
    "do without INT8": "leave --int8 out",
    "do without the DLA": "leave --dla out",
    "do without the dynamic vision tower": "leave --dynamic-vision out",
    "the runtime auto": "--runtime auto",
    "qat_steps": "--qat-steps",
    "give more calibration samples": "give more with --calib or --calib-samples",
    "give the rate of the labels": "give it with --rate",
    "give a labels file": "--labels labels.txt",
    "give the folder with the clips as media": "name the folder with the clips (--media FOLDER)",
    "give some as val, and as calib for INT8": "give some with --val, and with --calib for --int8",
    "give data as val, and as calib for INT8": "give data with --val, and with --calib for --int8",
    "or read the data as multi-label": "or read the data as multi-label (--multi-label of train and data)",
    "leave views out, or mirror the photos": "leave --views out, or use --mirror",
    "leave views or the window out": "leave --views out",
    "do not mirror the views": "leave --mirror out",
    "say it in a pixel file": "say it with --pixel pixel.yaml",
}
# The same for the beginning of "what is wrong"; only there, because file names may follow.
FLAGS_FIRST = {
    "python without wheels": "--python without --wheels",
    "python=": "--python ",
    "inbox=": "--inbox ",
    "tune=": "--tune ",
    "tune_minutes=": "--tune-minutes ",
    "tune_minutes without tune": "--tune-minutes without --tune",
    "vendor with only": "--vendor with --only",
    "vendor of a vision-language model": "--vendor of a vision-language model",
    "vendor names a folder that the bundle uses": "--vendor names a folder that -o uses",
    "dynamic_vision without a run": "--dynamic-vision without a run",
    "dynamic_vision names a folder that the bundle or vendor uses": (
        "--dynamic-vision names a folder that -o or --vendor uses"
    ),
}


def line_from_error(error: VidriskError) -> str:
    """Return an error as one line in the wording of the command line."""
    what = next(
        (
            flags + error.what.removeprefix(words)
            for words, flags in FLAGS_FIRST.items()
            if error.what.startswith(words)
        ),
        error.what,
    )
    return str(VidriskError(what, allowed=_with_flags(error.allowed), fix=_with_flags(error.fix)))


def _with_flags(text: str | None) -> str | None:
    for words, flags in FLAGS.items():
        text = text and text.replace(words, flags)
    return text
