"""A run over an output folder: its inputs, ledger, results, summary, evaluation; and the export of a training run."""
