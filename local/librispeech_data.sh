#!/usr/bin/env bash
# Stage 1 of LibriSpeech: fetch what is missing of it, then make the data directories.
#   local/librispeech_data.sh --librispeech DIR [--download SUBSET,SUBSET...] [--url URL] ...
# Further options are those of librispeech_data.py. A download that was stopped goes on; an
# archive is unpacked only if its SHA-256 is the published one.
set -euo pipefail
url=https://www.openslr.org/resources/12 librispeech="" download="" rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --librispeech) librispeech=$2; shift 2 ;;
        --download) download=${2//,/ }; shift 2 ;;
        --url) url=$2; shift 2 ;;
        *) rest+=("$1"); shift ;;
    esac
done
die() { echo "error: $1" >&2; exit 2; }
checksum() { # subset
    case $1 in
        dev-clean) echo 76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3 ;;
        dev-other) echo 12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365 ;;
        test-clean) echo 39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23 ;;
        test-other) echo d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29 ;;
        train-clean-100) echo d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2 ;;
        train-clean-360) echo 146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf ;;
        train-other-500) echo ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2 ;;
        *) die "--download $1: LibriSpeech has no such subset" ;;
    esac
}
# As librispeech_data.py, it takes LibriSpeech, or the folder it is in.
[ "$(basename "${librispeech}")" != LibriSpeech ] || librispeech=$(dirname "${librispeech}")
is_whole() { # file, subset
    echo "$(checksum "$2")  $1" | sha256sum --check --status
}
for subset in ${download}; do checksum "${subset}" >/dev/null; done
for subset in ${download}; do
    [ ! -d "${librispeech}/LibriSpeech/${subset}" ] || continue
    [ ! -d "${librispeech}/${subset}" ] ||
        die "${librispeech}/${subset}: is not in a folder LibriSpeech -> move the subsets to ${librispeech}/LibriSpeech/"
    part=${librispeech}/${subset}.tar.gz.part
    mkdir -p "${librispeech}"
    if ! [ -e "${part}" ] || ! is_whole "${part}" "${subset}"; then
        echo "fetching ${url}/${subset}.tar.gz"
        # 416: there is nothing behind what is here already.
        status=$(curl --fail --location --retry 5 --continue-at - --silent --show-error \
            --output "${part}" --write-out '%{http_code}' "${url}/${subset}.tar.gz") ||
            [ "${status}" = 416 ] ||
            die "${url}/${subset}.tar.gz cannot be fetched -> run it again to go on, or unpack it as ${librispeech}/LibriSpeech/${subset}"
    fi
    if ! is_whole "${part}" "${subset}"; then
        rm "${part}"
        die "${subset}.tar.gz is damaged, and was removed -> run it again"
    fi
    echo "unpacking ${subset}"
    folder=$(mktemp -d "${librispeech}/.unpack.XXXXXX")
    tar -xzf "${part}" -C "${folder}"
    mkdir -p "${librispeech}/LibriSpeech"
    mv "${folder}/LibriSpeech/${subset}" "${librispeech}/LibriSpeech/${subset}"
    rm -r "${folder}" "${part}"
done
exec python3 local/librispeech_data.py --librispeech "${librispeech}" "${rest[@]}"
