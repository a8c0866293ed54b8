"""A folder that puts a bundle to work on another machine: copied there, ``install.sh`` in it does the rest. Read in this order:

    devices.py      the kinds of machine, and what each of them needs
    wheel.py        vidrisk itself as a wheel, from a checkout or from what is installed
    wheels.py       everything that it depends on, for a machine without a network
    contents.py     what those wheels are: a lock file with hashes, and their licences
    deployment.py   the folder, written whole or not at all
    intact.py       what install.sh asks on the machine about bundle and packages
    files/          install.sh, uninstall.sh and the smoke test's clip, as they are copied; templates of the rest

The scripts are the same for every machine: what differs is in ``deploy.conf``. Nothing is re-exported here: the machine
needs ``intact`` alone.
"""
