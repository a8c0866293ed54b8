#!/usr/bin/env bash
# Installs vidrisk and one bundle on this machine, and runs them as a service. See README.md beside this file.
#
#   sudo ./install.sh                 below /opt/vidrisk and /var/lib/vidrisk, with the service vidrisk-watch
#   ./install.sh --prefix DIR         everything below DIR, without root and without a service
#
#   --no-service     do not install the service
#   --dry-run        check the machine, and only print what would be done
#   --image          for building a container image, without a GPU and a service
#
# An earlier installation is replaced only when the new one has given the same answers as at export and passed its smoke test.
# Results are kept.
#
# Environment: PYTHON selects another Python than python3 (on a Jetson: than /usr/bin/python3, which sees TensorRT).
# VIDRISK_CHECK_ROOT=DIR looks for the files that describe the machine (/etc/nv_tegra_release, /etc/os-release,
# /proc/driver/nvidia/version, /run/systemd/system) below DIR: to try the checks on another machine.
set -Eeuo pipefail
umask 022

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${VIDRISK_CHECK_ROOT:-}
service_user=vidrisk
unit=vidrisk-watch.service
prefix=/opt/vidrisk
state=/var/lib/vidrisk
is_whole_machine=yes with_service=yes is_dry=no is_image=no

fail() { # what, fix
    trap - ERR
    printf 'error: %s; fix: %s\n' "$1" "$2" >&2
    exit 1
}

say() { printf '%s\n' "$*"; }

run() { # Run a command, or print it for --dry-run.
    if [[ $is_dry == yes ]]; then
        printf '+'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

read_options() {
    while (($#)); do
        case $1 in
        --prefix)
            [[ ${2:-} ]] || fail "--prefix without a folder" "$0 --prefix DIR"
            prefix=$(realpath -m -- "$2") state=$prefix/state
            [[ $prefix != *[\$\`\"\\[:cntrl:]]* ]] || # the launchers that pip writes would expand them
                fail "--prefix $(printf %q "$prefix") has one of \$ \` \" \\ in it" "$0 --prefix DIR, with another name"
            is_whole_machine=no with_service=no
            shift
            ;;
        --no-service) with_service=no ;;
        --dry-run) is_dry=yes ;;
        --image) is_image=yes with_service=no ;;
        -h | --help)
            usage
            exit
            ;;
        *) fail "unknown option $1" "$0 --help" ;;
        esac
        shift
    done
}

check_folder() {
    local damaged unlisted
    [[ -r $here/deploy.conf && -r $here/SHA256SUMS ]] || fail "$here is not complete" "copy the whole folder again: scp -r"
    damaged=$(cd -- "$here" && sha256sum --check --quiet --strict SHA256SUMS 2>&1 | head -n 1) ||
        fail "$here is damaged: $damaged" "copy the whole folder again: scp -r"
    unlisted=$(cd -- "$here" && { # every listed name occurs twice
        sed 's/^[0-9a-f]*  //' SHA256SUMS
        find . ! -type d ! -path ./SHA256SUMS -printf '%P\n'
    } | LC_ALL=C sort | uniq -u | sed -n 1p)
    [[ ! $unlisted ]] ||
        fail "$here holds $(printf %q "$unlisted"), which SHA256SUMS does not list" "delete the folder and copy it again: scp -r, into no older one"
    # shellcheck source=/dev/null
    . "$here/deploy.conf"
    bundle=$VIDRISK_BUNDLE
    [[ $is_whole_machine == no ]] || inbox=$VIDRISK_INBOX
    inbox=${inbox:-$state/inbox}
    release=$(sha256sum "$here/SHA256SUMS")
    release=$prefix/releases/${release:0:12}
    python=${PYTHON:-python3}
    [[ ! $VIDRISK_L4T || ${PYTHON:-} ]] || python=/usr/bin/python3
}

check_rights() {
    if [[ $is_whole_machine == yes && $(id -u) != 0 && $is_dry == no ]]; then
        fail "installing for the whole machine needs root" "sudo $0, or $0 --prefix DIR"
    fi
    if [[ -d $prefix && ! -e $prefix/installed.conf && $(ls -A -I state -- "$prefix") ]]; then # state: results of an earlier installation
        fail "$prefix holds something else" "$0 --prefix DIR, with a folder that is empty or not there yet"
    fi
    [[ $with_service == no ]] || { [[ -d $root/run/systemd/system ]] && command -v systemctl >/dev/null; } ||
        fail "systemd does not run here" "$0 --no-service"
}

check_machine() {
    local machine other="x86-gpu or cpu"
    machine=$(uname -m)
    [[ $machine != aarch64 ]] || other="jetson-orin, jetson-thor or cpu"
    [[ " $VIDRISK_MACHINES " == *" $machine "* ]] ||
        fail "this folder is for $VIDRISK_TARGET ($VIDRISK_MACHINES), and this machine is $machine" \
            "make it again on the workstation: vidrisk deploy BUNDLE --target ${other// or / or --target } -o DIR"
    say "machine: $machine, $(system_name)"
}

system_name() {
    local name=unknown
    if [[ -r $root/etc/os-release ]]; then
        name=$(sed -n 's/^PRETTY_NAME=//p' "$root/etc/os-release" | tr -d \'\")
    fi
    printf '%s' "$name"
}

check_jetson_linux() {
    local line="" known major minor newest=0
    local flash="flash JetPack 6.2 or 7.2 with NVIDIA SDK Manager (docs/jetson.md of vidrisk)"
    if [[ -r $root/etc/nv_tegra_release ]]; then read -r line <"$root/etc/nv_tegra_release" || true; fi
    [[ $line =~ ^#\ R([0-9]+)\ \(release\),\ REVISION:\ ([0-9]+)\.([0-9]+) ]] ||
        fail "this is not a Jetson with JetPack: /etc/nv_tegra_release does not contain its release" \
            "vidrisk deploy BUNDLE --target cpu -o DIR on the workstation, or $flash"
    major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]}
    say "Jetson Linux: $major.$minor.${BASH_REMATCH[3]}"
    for known in $VIDRISK_L4T; do
        if ((major == ${known%.*} && minor >= ${known#*.})); then return; fi
        newest=${known%.*}
    done
    if ((major > newest)); then
        say "note: Jetson Linux $major is newer than those that this version of vidrisk supports"
    elif [[ " $VIDRISK_L4T" == *" $major."* && $major == 36 ]]; then
        fail "Jetson Linux $major.$minor has a TensorRT older than 10.3; required: one of $VIDRISK_L4T or later" \
            "sudo sed -i 's/r36\\.[0-9]*/r36.4/' /etc/apt/sources.list.d/nvidia-l4t-apt-source.list && sudo apt-get update && sudo apt-get dist-upgrade -y && sudo reboot"
    else
        fail "Jetson Linux $major.$minor is not for $VIDRISK_TARGET; required: one of $VIDRISK_L4T or later" \
            "$flash, or make this folder for another --target"
    fi
}

check_driver() {
    local line=""
    if [[ -r $root/proc/driver/nvidia/version ]]; then read -r line <"$root/proc/driver/nvidia/version" || true; fi
    [[ $line =~ \ ([0-9]+)\.[0-9.]+ ]] || fail "no NVIDIA driver is loaded" "sudo ubuntu-drivers install && sudo reboot"
    say "NVIDIA driver: ${BASH_REMATCH[1]}"
    ((BASH_REMATCH[1] >= VIDRISK_DRIVER)) ||
        fail "the NVIDIA driver is ${BASH_REMATCH[1]}, but CUDA 13 needs $VIDRISK_DRIVER" "sudo ubuntu-drivers install && sudo reboot"
}

check_python() {
    local version
    version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "there is no $python" "sudo apt-get install -y python3 python3-venv"
    say "Python: $version ($python)"
    ((${version%.*} == 3 && ${version#*.} >= 10)) ||
        fail "Python is $version, but vidrisk needs 3.10" "sudo apt-get install -y python3.10-venv && PYTHON=python3.10 $0"
    [[ ! -d $here/wheels || $version == "$VIDRISK_WHEELS_PYTHON" ]] ||
        fail "the wheels in this folder are for Python $VIDRISK_WHEELS_PYTHON, and this machine has $version" \
            "vidrisk deploy BUNDLE --target $VIDRISK_TARGET --wheels --python $version -o DIR, on the workstation"
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python cannot make a virtual environment" "sudo apt-get install -y python$version-venv"
}

check_tensorrt() {
    local version
    if [[ $is_image == yes ]]; then # at run time some of its libraries are mounted from the host
        "$python" -I -c 'import importlib.util as u, sys; s = u.find_spec("tensorrt"); sys.exit(not (s and s.origin))' ||
            fail "the base image has no TensorRT for $python" "docker build --build-arg BASE_IMAGE=… (README.md names some)"
        return
    fi
    version=$("$python" -I -c 'import tensorrt; print(tensorrt.__version__)' 2>/dev/null) ||
        fail "$python does not see TensorRT" "sudo apt-get update && sudo apt-get install -y python3-libnvinfer"
    say "TensorRT: $version"
    [[ $version =~ ^(10\.([3-9]|[1-9][0-9])|1[1-9]|[2-9][0-9])(\.|$) ]] ||
        fail "TensorRT is $version, but vidrisk needs 10.3" "sudo apt-get update && sudo apt-get install -y nvidia-jetpack"
}

check_disk() {
    local place=$prefix free_mb
    until [[ -d $place ]]; do place=$(dirname -- "$place"); done
    free_mb=$(($(df --output=avail -k -- "$place" | tail -n 1) / 1024))
    say "disk: $free_mb MB free"
    ((free_mb >= VIDRISK_NEED_MB)) ||
        fail "$place has $free_mb MB free, but $VIDRISK_NEED_MB MB are needed" "sudo apt-get clean, or $0 --prefix DIR on another disk"
}

# The owner of everything that the service writes, with access to the GPU's device nodes.
make_user() {
    local group node groups=()
    if ! getent passwd "$service_user" >/dev/null; then
        group=--user-group
        if getent group "$service_user" >/dev/null; then group=--gid=$service_user; fi # userdel leaves one that has members
        run useradd --system "$group" --home-dir "$state" --no-create-home --shell /usr/sbin/nologin "$service_user"
        USER_MADE=yes
    fi
    for node in /dev/nvmap /dev/nvhost-* /dev/nvgpu/*/* /dev/dri/renderD* /dev/nvidia*; do
        [[ -c $node ]] || continue
        group=$(stat -c %G -- "$node")
        [[ $group == root || $group == UNKNOWN || " ${groups[*]-} " == *" $group "* ]] || groups+=("$group")
    done
    for group in "${groups[@]}"; do
        run usermod -aG "$group" "$service_user"
    done
}

# The service can change folders that it owns, and could place a link there for root to follow. So the folder above its folders
# belongs to root, and everything is created in folders that only root can change.
make_folders() {
    local folder old_owner owner=()
    [[ $with_service == no ]] || owner=(-o "$service_user" -g "$service_user")
    if [[ $with_service == yes ]]; then
        refuse_foreign_folders "$state"
        if [[ -L $state ]]; then # to another disk
            [[ $(stat -c %u -- "$state") == 0 ]] || refuse_link "$state"
            refuse_foreign_folders "$(realpath -m -- "$state")"
        fi
        run install -d -m 0755 -o root -g root "$state" # an installation of before gave it to the service
    else
        run install -d -m 0755 "$state"
    fi
    for folder in "$state/out" "$state/cache" "$inbox"; do
        refuse_link "$folder"
    done
    old_owner=$(stat -c %u -- "$state/out" 2>/dev/null || true)
    run install -d -m 0750 "${owner[@]}" "$state/out"
    run install -d -m 0700 "${owner[@]}" "$state/cache"
    if [[ $with_service == yes && $old_owner && $old_owner != 0 && $old_owner != "$(id -u "$service_user" 2>/dev/null)" ]]; then
        # Files of an earlier service belong to a numeric user id.
        run chown -R -h --from="$old_owner" "$service_user:$service_user" "$state/out" "$state/cache"
    fi
    if [[ ! -d $inbox ]]; then
        [[ $with_service == no ]] || refuse_foreign_folders "$inbox"
        run install -d -m 2770 "${owner[@]}" "$inbox"
        INBOX_MADE=yes
    elif [[ $inbox == "$state/inbox" && $with_service == yes ]]; then
        run install -d -m 2770 "${owner[@]}" "$inbox"
    fi
}

refuse_link() {
    [[ ! -L $1 ]] || fail "$1 is a link, which root does not follow" "see who made it: ls -l $(printf %q "$1"); then remove it and run $0 again"
}

# Every folder above this one must belong to root and be writable by root alone.
refuse_foreign_folders() {
    local folder=$1
    while [[ $folder != / ]]; do
        folder=$(dirname -- "$folder")
        [[ -e $folder || -L $folder ]] || continue
        if [[ -L $folder ]]; then
            [[ $(stat -c %u -- "$folder") == 0 ]] || refuse_link "$folder"
            refuse_foreign_folders "$(realpath -m -- "$folder")/."
        elif [[ $(stat -c %u -- "$folder") != 0 || $((8#$(stat -c %a -- "$folder") & 8#22)) != 0 ]]; then
            fail "users other than root may change $folder, so root creates nothing in it" "create it as its owner: mkdir -p $(printf %q "$1")"
        fi
    done
}

# Settings for uninstall.sh; it also removes what an earlier installation created.
read_earlier_installation() {
    [[ -r $prefix/installed.conf ]] || return 0
    # shellcheck source=/dev/null
    . "$prefix/installed.conf"
    [[ $INBOX == "$inbox" ]] || INBOX_MADE=no
}

note_installation() {
    [[ $is_dry == no ]] || return 0
    mkdir -p -- "$prefix"
    {
        printf 'STATE=%q\nINBOX=%q\n' "$state" "$inbox"
        printf '%s=%s\n' WHOLE_MACHINE "$is_whole_machine" SERVICE_MADE "$SERVICE_MADE" USER_MADE "$USER_MADE" INBOX_MADE "$INBOX_MADE"
    } >"$prefix/installed.conf.new"
    mv -- "$prefix/installed.conf.new" "$prefix/installed.conf"
    cp -- "$here/uninstall.sh" "$prefix/uninstall.sh"
}

install_release() {
    local options=() source=(--no-index --find-links "$here" --find-links "$here/wheels" --only-binary ":all:" --require-hashes)
    if [[ -e $release/complete ]]; then
        if "$release/venv/bin/python" -I -m vidrisk.deploy.intact --packages "$release/bundle/$bundle"; then
            say "this release is installed already: $release"
            return
        fi
        say "this release was installed, but is damaged (the reason is above): it is installed again"
    fi
    [[ ! $VIDRISK_L4T ]] || options=(--system-site-packages)
    run rm -rf -- "$release"
    run mkdir -p -- "$release"
    run "$python" -I -m venv "${options[@]}" "$release/venv"
    if [[ -d $here/wheels ]]; then
        say "installing Python packages from $here/wheels…"
    else
        say "installing Python packages; this folder contains none, so the index determines their versions…"
        source=("$here/${VIDRISK_WHEEL}[$VIDRISK_EXTRAS]")
    fi
    run "$release/venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input "${source[@]}" \
        -r "$here/requirements.txt" ||
        fail "pip cannot install the packages (its reason is above)" \
            "check the network and run $0 again, or bring the packages along: vidrisk deploy … --wheels"
    run cp -R -- "$here/bundle" "$here/smoke.mp4" "$here/README.md" "$here/LICENSES.txt" "$release/"
    run "$release/venv/bin/python" -I -m vidrisk.deploy.intact "$release/bundle/$bundle" ||
        fail "the bundle cannot be verified (the reason is above)" "copy the whole folder again: scp -r"
}

as_service() { # Run as the service's user, with its cache.
    local command=(env HOME="$state/cache" TMPDIR="$state/cache" VIDRISK_CACHE="$state/cache" "$@")
    if [[ $with_service == yes ]]; then
        command=(runuser -u "$service_user" -- "${command[@]}")
    fi
    run "${command[@]}"
}

build_engines() {
    [[ $VIDRISK_ENGINE && $is_image == no ]] || return 0
    say "building engines for this GPU; the first time this takes minutes…"
    as_service "$release/venv/bin/python" -I -m vidrisk build "$release/bundle/$bundle" --engine "$VIDRISK_ENGINE" ||
        fail "the engines cannot be built (the reason is above)" "$release/venv/bin/python -I -m vidrisk doctor"
}

# Verify the bundle's golden samples with the engine that the service will use.
verify_answers() {
    local code=0 engine=()
    [[ ! $VIDRISK_ENGINE || $is_image == no ]] || return 0
    [[ ! $VIDRISK_ENGINE ]] || engine=(--runtime "$VIDRISK_ENGINE")
    say "comparing this machine's answers with those of the export…"
    as_service "$release/venv/bin/python" -I -m vidrisk verify "$release/bundle/$bundle" "${engine[@]}" || code=$?
    case $code in
    0) ;;
    3) fail "answers differ from those of the export (the reason is above)" "fix the problem above, and run $0 again" ;;
    4) say "note: not everything could be verified (the reason is above)" ;;
    *) fail "the answers cannot be verified (the reason is above)" "$release/venv/bin/python -I -m vidrisk doctor" ;;
    esac
}

predict_once() {
    local scratch=/tmp/vidrisk-smoke
    [[ ! $VIDRISK_ENGINE || $is_image == no ]] || return 0
    say "predicting a first clip…"
    if [[ $is_dry == no ]]; then
        scratch=$(mktemp -d)
        # shellcheck disable=SC2064 # expand it now: the variable may change
        trap "rm -rf -- $(printf %q "$scratch")" EXIT
        [[ $with_service == no ]] || chown "$service_user" "$scratch"
    fi
    as_service "$release/venv/bin/python" -I -m vidrisk infer "$release/bundle/$bundle" "$release/smoke.mp4" -o "$scratch/out" \
        --runtime "${VIDRISK_ENGINE:-auto}" --no-report ||
        fail "the smoke prediction failed (the reason is above)" "$release/venv/bin/python -I -m vidrisk doctor"
    run touch -- "$release/complete"
}

switch_release() {
    local link=/usr/local/bin/vidrisk
    run ln -sfn -- "$release" "$prefix/current.new"
    run mv -T -- "$prefix/current.new" "$prefix/current"
    [[ $is_whole_machine == yes ]] || return 0
    if [[ ! -e $link && ! -L $link ]]; then
        run ln -s -- "$prefix/current/venv/bin/vidrisk" "$link"
    elif [[ $(readlink -- "$link" || true) != "$prefix/current/venv/bin/vidrisk" ]]; then
        say "note: $link belongs to another program and is kept; use $prefix/current/venv/bin/vidrisk"
    fi
}

start_service() {
    [[ $with_service == yes ]] || return 0
    [[ $is_dry == yes ]] || runuser -u "$service_user" -- test -r "$inbox" -a -x "$inbox" ||
        fail "the user $service_user may not read $inbox" "sudo chmod o+rx $(printf %q "$inbox") and the folders above it"
    SERVICE_MADE=yes
    note_installation
    run install -m 0644 -- "$here/$unit" "/etc/systemd/system/$unit"
    run systemctl daemon-reload
    run install -d -m 0755 -o root -g root "$state" # the unit of an earlier version gave it to the service at every start
    run systemctl enable --quiet "$unit"
    say "starting the service…"
    run systemctl restart "$unit" || fail "the service does not start" "journalctl -u $unit -n 50"
}

remove_old_releases() {
    local old
    for old in "$prefix"/releases/*; do
        [[ $old == "$release" || ! -d $old ]] || run rm -rf -- "$old"
    done
}

main() {
    trap 'fail "line $LINENO: $BASH_COMMAND" "fix the problem above and run $0 again: it continues"' ERR
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER
    USER_MADE=no INBOX_MADE=no SERVICE_MADE=no INBOX=""
    inbox=""
    read_options "$@"
    check_folder
    check_rights
    check_machine
    if [[ $VIDRISK_L4T && $is_image == no ]]; then check_jetson_linux; fi
    if [[ $VIDRISK_DRIVER && $is_image == no ]]; then check_driver; fi
    check_python
    if [[ $VIDRISK_L4T ]]; then check_tensorrt; fi
    check_disk
    read_earlier_installation
    note_installation
    if [[ $with_service == yes ]]; then make_user; fi
    make_folders
    note_installation
    install_release
    build_engines
    verify_answers
    predict_once
    switch_release
    start_service
    remove_old_releases
    if [[ $is_dry == yes ]]; then
        say "nothing was done: --dry-run"
    elif [[ $with_service == yes ]]; then
        say "running. Put clips and photos into $inbox; results are in $state/out; systemctl status $unit"
    else
        say "installed. $prefix/current/venv/bin/vidrisk watch $(printf %q "$inbox") -o $(printf %q "$state/out")" \
            "--bundle $(printf %q "$prefix/current/bundle/$bundle")"
    fi
}

main "$@"
