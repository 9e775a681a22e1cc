#!/bin/sh
# Every attack, undefended and defended: a line of a Markdown table a `dau run`.
#   scripts/attacks.sh PLACE [dau run's words: --dataset CIFAR-10 --data DIR --limit-per-class 500 --width 16 ...]
# PLACE keeps the run folders; runs that have ended there are not run again. Around it: DAU (the binary), SEEDS, CASES (an attack and
# its options a line). Clean-label attacks get 9 %: at 10 % of ten equal classes the target class would hold nothing else.
set -eu
place=$1
shift
dau=${DAU:-target/release/dau}
mkdir -p "$place"

echo "| attack | seed | ACC | ASR | RA | T | precision | recall | AUROC | ACC after | ASR after | RA after | T after | implanted | minutes |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
for seed in ${SEEDS:-0}; do
    # The attacks that are made with a clean network share one: that of the first.
    surrogate=$place/LC-poison-rate-.09-$seed/surrogate.safetensors
    echo "${CASES:-BadNets --pattern grid
BadNets --pattern white
Blended
WaNet
WaNet --negatives 0
BPP
BPP --dither true
FTrojan
LC --poison-rate .09
TrojanNN
LF
SIG --poison-rate .09
CTRL --poison-rate .09
BadNets --pattern grid --target-mode all-to-all}" | while read -r case; do
        out=$place/$(echo "$case" | tr -s ' -' '--' | tr -dc 'A-Za-z0-9.-')-$seed
        clean=
        case $case in TrojanNN* | LF*) [ ! -f "$surrogate" ] || clean="--surrogate $surrogate" ;; esac
        # shellcheck disable=SC2086 # options are words
        [ -f "$out/results.json" ] || "$dau" run "$@" --attack $case $clean --seed "$seed" --out "$out" >"$out.log" 2>&1 </dev/null
        case=$case awk -v seed="$seed" '
            /^  "/ { part = $1 }
            $1 ~ /^"(acc|asr|ra|t|precision|recall|auroc|flagged|total)":$/ && $2 != "[" { value[part $1] = $2 + 0; known[part $1] = $2 !~ /null/ }
            $1 == "\"implanted\":" { implanted = $2 ~ /true/ ? "yes" : "no" }
            function cell(part, name, form) { name = "\"" part "\":\"" name "\":"; return known[name] ? sprintf(form, value[name]) : "-" }
            function four(part) { return cell(part, "acc", "%.1f") " | " cell(part, "asr", "%.1f") " | " cell(part, "ra", "%.1f") " | " cell(part, "t", "%.1f") }
            END {
                # Of nothing flagged no share is right.
                if (!value["\"split\":\"flagged\":"]) known["\"split\":\"precision\":"] = known["\"split\":\"auroc\":"] = 0
                printf "| %s | %s | %s | %s | %s | %s | %s | %s | %.1f |\n", ENVIRON["case"], seed, four("undefended"),
                    cell("split", "precision", "%.1f"), cell("split", "recall", "%.1f"), cell("split", "auroc", "%.4f"),
                    four("defended"), implanted, value["\"seconds\":\"total\":"] / 60
            }' "$out/results.json"
    done
done
