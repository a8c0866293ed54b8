"""The pool of supervised decode processes: whoever opens a file that came from elsewhere does it there."""
