"""Pool of supervised decode processes, in which all files from outside are opened."""
