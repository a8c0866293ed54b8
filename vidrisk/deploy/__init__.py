"""A deployment folder for a bundle: copied to another machine, its ``install.sh`` installs everything.

Read in this order:

    devices.py      the kinds of machine, and what each of them needs
    wheel.py        vidrisk itself as a wheel, from a checkout or from the installed package
    wheels.py       all dependencies, for a machine without a network
    contents.py     a lock file with hashes for those wheels, and their licences
    deployment.py   the folder, written completely or not at all
    intact.py       check of bundle and packages on the machine, for install.sh
    files/          install.sh, uninstall.sh and the smoke test's clip, copied unchanged; templates of the rest

The scripts are the same for every machine; the differences are in ``deploy.conf``. Nothing is re-exported here: the
machine needs ``intact`` alone.
"""
