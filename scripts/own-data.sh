#!/bin/sh
# How well `dau defend` does on folders that `dau poison` wrote: a line of a Markdown table a run. The truth, poison.csv, is read here
# only, after the defense has ended.
#   scripts/own-data.sh PLACE digits
#   scripts/own-data.sh PLACE CIFAR-10 DIR [--width 16 ...]
# PLACE keeps the folders; runs that have ended there are not run again. Further words go to `dau defend`. Around it:
# DAU (the binary), SEEDS, CASES ("attack:rate:pattern" with - for none), LIMIT (training images a class).
set -eu
place=$1 dataset=$2
shift 2
data=
[ "$dataset" = digits ] || { data=$1; shift; }
dau=${DAU:-target/release/dau}
mkdir -p "$place"

echo "| data | seed | found | classes | flagged | precision | recall | clean flagged | ACC as trained | ACC defended | seconds |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
for seed in ${SEEDS:-0 1 2}; do
    for case in ${CASES:-BadNets:.1:white Blended:.1:- BadNets:.05:white Blended:.05:- none:0:-}; do
        attack=${case%%:*} rest=${case#*:}
        rate=${rest%%:*} pattern=${rest#*:}
        name=$(echo "$dataset-$attack-$pattern-$rate-$seed" | tr -d -- ' ')
        out=$place/$name
        from=$data
        limit=${LIMIT:+--limit-per-class $LIMIT}
        if [ "$attack" != none ]; then
            from=$place/$name-data
            option=
            [ "$pattern" = - ] || option="--pattern $pattern"
            if [ ! -f "$from/poison.csv" ]; then
                # shellcheck disable=SC2086 # options are words
                "$dau" poison --dataset "$dataset" ${data:+--data "$data"} $limit --attack "$attack" $option \
                    --poison-rate "$rate" --seed "$seed" --out "$from" >"$out.log" 2>&1
            fi
            limit=
        fi
        # shellcheck disable=SC2086
        [ -f "$out/results.json" ] || "$dau" defend --dataset "$dataset" ${from:+--data "$from"} $limit "$@" --seed "$seed" \
            --out "$out" >>"$out.log" 2>&1
        truth=$from/poison.csv
        [ "$attack" != none ] || truth=/dev/null
        label="$attack $pattern $rate" awk -F, -v seed="$seed" -v truth="$truth" -v results="$out/results.json" '
            BEGIN {
                while ((getline line <truth) > 0) if (split(line, cell, ",") && cell[4] == "poisoned") bad[cell[1]] = 1
                for (path in bad) poisoned++
                while ((getline line <results) > 0) {
                    gsub(/[",]/, "", line)
                    n = split(line, word, /[ :]+/)
                    if (word[2] == "found") found = word[3]
                    if (word[2] == "name" && named++) classes = classes " " word[3]
                    if (word[2] == "acc" && word[3] + 0 > 0) acc[++accs] = word[3]
                    if (word[2] == "total") seconds = word[3]
                }
            }
            FNR > 1 { images++ }
            $NF == "poisoned" { flagged++; if ($1 in bad) right++ }
            function percent(part, of) { return of ? sprintf("%.1f", 100 * part / of) : "-" }
            END {
                printf "| %s | %s | %s |%s | %d | %s | %s | %s | %.1f | %.1f | %.0f |\n", ENVIRON["label"], seed, found, classes ? classes : " -",
                    flagged, percent(right, flagged), percent(right, poisoned), percent(flagged - right, images - poisoned),
                    acc[1], acc[2], seconds
            }' "$out/suspects.csv"
    done
done
