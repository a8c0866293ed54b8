"""Runs over an output folder (inputs, ledger, results, summary, evaluation), and exports of training runs."""
