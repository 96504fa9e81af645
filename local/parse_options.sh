# shellcheck shell=bash
# Source me: turns `--name value` into the shell variable of that name. The known
# options are those that the caller's ${help_message} lists. It leaves what recipes share.
# ${recipe} is what starts the caller, if not ./run.sh.
die() { echo "error: $1" >&2; exit 2; }
# What the kernel kills, as it does what wants more memory than there is, cannot say so.
trap '[ $? != 137 ] || echo "error: a program was killed, most likely for want of memory -> see docs/troubleshooting.md" >&2' EXIT
known_options=$(grep -oE '^  --[a-z_0-9]+' <<<"${help_message:?}" | cut -c 5-)
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) echo "${help_message}"; exit 0 ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; # as two words
        --*)
            name=${1//-/_}; name=${name#__}
            grep -qx -- "${name}" <<<"${known_options}" ||
                die "unknown option $1 -> see ${recipe:-./run.sh} --help"
            [ $# -ge 2 ] || die "option $1 needs a value"
            printf -v "${name}" %s "$2"; shift 2 ;;
        *) die "unexpected argument $1 -> options look like --stage 12" ;;
    esac
done
# Refuses wrong values in one line, and prints the rungs that are asked for: a line with
# method, name of the pruning run and name of the export for each.
check_options() {
    local name values=()
    for name in ${known_options}; do values+=("--${name}=${!name:-}"); done
    PYTHONPATH=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.. \
        python3 -m espnet_prune.config.run_options "${values[@]}"
}
runs() { # number
    [ "$1" -ge "${stage:?}" ] && [ "$1" -le "${stop_stage:?}" ] &&
        [[ " ${skip_stages?} " != *" $1 "* ]]
}
# Does this stage run? Says so, with the time since the start.
begin() { # number, title
    runs "$1" || return 1
    printf '[%02d:%02d] stage %s: %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1" "$2"
}
