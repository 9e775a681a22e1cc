#!/bin/sh
# Stage 1's verdict from the images alone, a row a set of a Markdown table: clean sets, then attacks on digits, on 5,000 photographs and
# on 50,000.
#   scripts/verdicts.sh DIR [clean] [digits] [small] [full]
# DIR holds CIFAR-10 as train/<class>/*; without further words all parts are made. `full` takes about a minute a row on two cores,
# the others seconds. Seeds are 11 and up: those below were seen while the method was made (docs/method.md).
set -eu
data=$1
shift
[ $# -gt 0 ] || set -- clean digits small full
verdict() {
    cargo bench --quiet --bench verdict -- "$@"
}

# Every attack that needs no network, on sets of `$1` (words of the set, with a comma at the end), seed `$2`, target `$3`.
attacks() {
    of="$1" seed="$2" target="$3"
    for rate in .1 .05 .01; do
        for attack in BadNets BadNets,pattern=grid Blended BPP FTrojan WaNet; do
            echo "${of}attack=$attack,rate=$rate,target=$target,seed=$seed"
        done
    done
    echo "${of}attack=Blended,rate=.005,target=$target,seed=$seed"
    for rate in .05 .02; do
        for attack in SIG CTRL; do
            echo "${of}attack=$attack,rate=$rate,target=$target,seed=$seed"
        done
    done
    for attack in BadNets,pattern=grid Blended; do
        echo "${of}attack=$attack,mode=all-to-all,seed=$seed"
    done
}

for part in "$@"; do
    echo "### $part"
    case $part in
    clean)
        sets=
        for seed in 11 12 13; do
            for classes in 3 4 10; do
                for per in 16 40 60 150 500; do
                    sets="$sets per=$per,classes=$classes,seed=$seed"
                done
            done
            sets="$sets per=500,uneven=true,seed=$seed per=500,kinds=43,seed=$seed"
        done
        # shellcheck disable=SC2086 # words
        verdict "$data" $sets per=5000,classes=3,seed=11 per=5000,classes=4,seed=11 per=4000,seed=11 kinds=43,seed=11
        verdict digits per=40,seed=11 per=40,seed=12 per=80,seed=11 per=80,seed=12 per=110,seed=11 per=110,seed=12
        ;;
    digits)
        # shellcheck disable=SC2046
        verdict digits $(attacks "" 11 3)
        ;;
    small)
        # shellcheck disable=SC2046
        verdict "$data" $(attacks "per=500," 11 7)
        ;;
    full)
        # shellcheck disable=SC2046
        verdict "$data" $(attacks "" 11 2)
        ;;
    *)
        echo "scripts/verdicts.sh: no part $part: give clean, digits, small or full" >&2
        exit 2
        ;;
    esac
done
