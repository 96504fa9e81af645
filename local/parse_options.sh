# shellcheck shell=bash
# Source me: turns `--name value` into the shell variable of that name. The known
# options are those that the caller's ${help_message} lists.
known_options=$(grep -oE '^  --[a-z_0-9]+' <<<"${help_message:?}")
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) echo "${help_message}"; exit 0 ;;
        --*)
            name=${1//-/_}; name=${name#__}
            if ! grep -qx -- "  --${name}" <<<"${known_options}"; then
                echo "error: unknown option $1 -> see ./run.sh --help" >&2; exit 2
            fi
            if [ $# -lt 2 ]; then
                echo "error: option $1 needs a value" >&2; exit 2
            fi
            printf -v "${name}" %s "$2"; shift 2 ;;
        *)
            echo "error: unexpected argument $1 -> options look like --stage 12" >&2
            exit 2 ;;
    esac
done
