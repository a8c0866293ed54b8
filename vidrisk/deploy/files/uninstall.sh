#!/usr/bin/env bash
# Removes everything that install.sh created. It is located in the installation folder.
#
#   sudo /opt/vidrisk/uninstall.sh    keeps results and files in the inbox
#   --purge                           remove them, too
#   --dry-run                         only print what would be done
set -Eeuo pipefail

prefix=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
service_user=vidrisk
unit=vidrisk-watch.service
is_dry=no with_results=no

fail() { # what, fix
    trap - ERR
    printf 'error: %s; fix: %s\n' "$1" "$2" >&2
    exit 1
}

run() { # Run a command, or print it for --dry-run.
    if [[ $is_dry == yes ]]; then
        printf '+'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

read_options() {
    while (($#)); do
        case $1 in
        --purge) with_results=yes ;;
        --dry-run) is_dry=yes ;;
        -h | --help)
            sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
            exit
            ;;
        *) fail "unknown option $1" "$0 --help" ;;
        esac
        shift
    done
}

remove_service() {
    if [[ $SERVICE_MADE == yes ]]; then
        run systemctl disable --quiet --now "$unit" || true # it may have been removed by hand
        run rm -f -- "/etc/systemd/system/$unit"
        run systemctl daemon-reload
    fi
    if [[ $(readlink -- /usr/local/bin/vidrisk || true) == "$prefix/current/venv/bin/vidrisk" ]]; then
        run rm -f -- /usr/local/bin/vidrisk
    fi
}

# Root deletes nothing through a link: the service, or a user of the inbox, may have created it.
refuse_links() {
    local folder
    if [[ $WHOLE_MACHINE == yes && -d $STATE && ! -L $STATE ]]; then
        run chown root:root -- "$STATE" # an earlier version gave it to the service, which could still change it
    fi
    for folder in "$STATE" "$STATE/out" "$STATE/cache" "$INBOX"; do
        while [[ $folder == "$STATE" || $folder == "$STATE"/* ]]; do
            [[ ! -L $folder ]] || fail "$folder is a link, which is not followed" "see who made it: ls -l $(printf %q "$folder"); then remove it and run $0 again"
            folder=$(dirname -- "$folder")
        done
    done
}

remove_state() {
    local folder folders=("$STATE/out" "$STATE")
    refuse_links
    run rm -rf -- "${STATE:?}/cache"
    if [[ $with_results == yes ]]; then
        run rm -rf -- "${STATE:?}/out"
        [[ $INBOX != "$STATE"/* ]] || run rm -rf -- "${INBOX:?}"
    fi
    [[ $INBOX_MADE == no ]] || folders=("$INBOX" "${folders[@]}")
    for folder in "${folders[@]}"; do
        [[ ! -d $folder ]] || run rmdir --ignore-fail-on-non-empty -- "$folder"
        [[ $is_dry == yes || ! -d $folder ]] || printf 'kept, because it is not empty: %s\n' "$folder"
    done
}

main() {
    trap 'fail "line $LINENO: $BASH_COMMAND" "fix the problem above and run $0 again: it continues"' ERR
    read_options "$@"
    [[ -r $prefix/installed.conf ]] || fail "$prefix holds no installation" "run the uninstall.sh in the folder that was installed to"
    # shellcheck source=/dev/null
    . "$prefix/installed.conf"
    if [[ $WHOLE_MACHINE == yes && $(id -u) != 0 && $is_dry == no ]]; then
        fail "it was installed for the whole machine" "sudo $0"
    fi
    remove_service
    remove_state
    if [[ $USER_MADE == yes ]] && getent passwd "$service_user" >/dev/null; then
        run userdel "$service_user"
    fi
    run rm -rf -- "${prefix:?}/releases" "$prefix/current" "$prefix/installed.conf" "$prefix/uninstall.sh"
    [[ ! -d $prefix ]] || run rmdir --ignore-fail-on-non-empty -- "$prefix"
    [[ $is_dry == yes ]] || printf 'removed\n'
}

main "$@"
exit
