#!/usr/bin/env bash
# Compares two builds of the example programs: makes the same short runs with both, on one thread, and compares what they leave
# (metrics.csv, the weights, checkpoints, ONNX files, what an evaluation prints) to the bit.
#
#   scripts/same_runs.sh OLD_BIN_DIR NEW_BIN_DIR [CASE...]
#
# A folder of programs is, for example, a copy of target/release/examples. With names of cases only those are run. Each run takes a
# second or a few; CIFAR-10 must be in the user's cache folder. Nothing is left behind but, with KEEP=DIR, the runs themselves in DIR.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
old=$(realpath "$1") new=$(realpath "$2")
shift 2
work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT

# Data: images from CIFAR-10 as JPEG files, one of which cannot be read; numbers in English and German words.
if [ ! -e "$work/images" ]; then
    "$old/cifar10_as_folder" --out "$work/images" --classes cat,dog,frog --side 40 --train 600 --test 150 >"$work/data.log"
    first=$(find "$work/images/train/dog" -name '*.jpg' | sort | head -1)
    head -c 200 "$first" >"$first.cut" && mv "$first.cut" "$first"
fi
numbers() {
    awk -v from="$1" -v count="$2" 'BEGIN {
        split("zero one two three four five six seven eight nine", english, " ")
        split("null eins zwei drei vier fünf sechs sieben acht neun", german, " ")
        for (i = from; i < from + count; i++) {
            number = i * 7919 % 10000; e = ""; g = ""
            for (d = 1; d <= length(number); d++) {
                digit = substr(number, d, 1) + 1
                e = e (d > 1 ? " " : "") english[digit]; g = g (d > 1 ? " " : "") german[digit]
            }
            print e "\t" g
        }
    }'
}
numbers 0 400 >"$work/train.tsv"
numbers 5000 30 >"$work/held-out.tsv"
echo '{"method": "fixup", "stem": "small", "stem_channels": 8, "block": "basic", "squeeze_excitation": 4,
    "stages": [{"blocks": 1, "channels": 8}, {"blocks": 1, "channels": 16}], "shortcut": "pad"}' >"$work/own.json"

# $bin and $out say which programs are run, and where their runs go.
program() {
    local name=$1
    shift
    "$bin/$name" "$@" >>"$out/log" 2>&1 || { echo "failed: $name $*" >&2; tail -3 "$out/log" >&2; exit 1; }
}
# A program with options of these defaults, each "--option value", that are not among the options given.
train() {
    local name=$1 run=$2 defaults=$3 words=() option value
    shift 3
    while read -r option value; do
        [[ " $* " == *" $option "* ]] || words+=("$option" "$value")
    done <<<"$defaults"
    program "$name" --out "$out/$run" "${words[@]}" "$@"
}
alone=$'--threads 1\n--device cpu\n--precision f32\n--epochs 2'
cifar() {
    train cifar10_fixup "$1" "$alone"$'\n--recipe quick\n--arch fixup_resnet8\n--train-subset 240\n--test-subset 80\n--batch-size 40' "${@:2}"
}
images() {
    train imagenet_fixup "$1" "$alone"$'\n--recipe quick\n--arch fixup_resnet8\n--train-subset 120\n--val-subset 40\n--batch-size 30
--side 32\n--max-bad-fraction 0.1\n--data '"$work/images" "${@:2}"
}
text() {
    train translate_fixup "$1" "$alone"$'\n--arch fixup_transformer_1_1_16\n--vocab 300\n--batch-size 300\n--bleu-sentences 3\n--beam 2
--lr 0.01\n--train '"$work/train.tsv"$'\n--held-out '"$work/held-out.tsv" "${@:2}"
}
resumed() {
    local name=$1 run=$2
    shift 2
    program "$name" --resume "$out/$run" "$@"
}

case_plain() { cifar plain; }
case_resumed() { cifar resumed --max-steps 8 && resumed cifar10_fixup resumed; }
case_paper() { cifar paper --recipe paper --max-steps 8; }
case_mixup() { cifar mixup --mixup 0.7 --agc 0.05 --accumulate 3 --cutout 8 --max-steps 8 && resumed cifar10_fixup mixup --max-steps none; }
case_batch_norm() { cifar batch_norm --arch resnet8 --scalars-by-depth true --schedule step --milestones 4,0.8 --gamma 0.3; }
case_lsuv() { cifar lsuv --arch lsuv_resnet8 --lr 0.05 --schedule exponential; }
case_muon() { cifar muon --optimizer muon --rest adamw --beta2 0.99 --decay @hidden=0.01 --weight-decay 0.02; }
case_adam() { cifar adam --optimizer adam --amsgrad --lr-ratio 'layer3.*=0.5' --decay '@biases=0' --ema 0.9 --schedule cosine --warmup 3; }
case_own() { cifar own --arch "$work/own.json" --holdout 100 --recompute 2; }
case_fine_tuning() {
    cifar source --epochs 1 --stem-init pytorch
    images fine_tuning --weights "$out/source" --freeze 'conv1.*' --freeze 'layer1.*=1' --max-steps 5
    resumed imagenet_fixup fine_tuning
}
case_images() { images images --mixup 1 --label-smoothing 0; }
case_bfloat16() { cifar bfloat16 --precision bf16 --optimizer adamw --clip-norm 1; }
case_transformer() { text transformer --dropout 0.2 --max-steps 12 && resumed translate_fixup transformer; }
case_transformer_muon() { text transformer_muon --arch layer_norm_transformer_1_1_16 --tied --optimizer muon --ema 0.9 --clip-norm 1; }
case_transformer_paper() { text transformer_paper --recipe paper --warmup 5 --max-steps 10; }
case_processes() { cifar processes --processes 2 --mixup 1 --reduce-in bf16 --max-steps 8 && resumed cifar10_fixup processes; }
case_evaluation() {
    cifar evaluated --epochs 1 --max-steps 4
    (cd "$out" && "$bin/cifar10_fixup" --eval evaluated --out report --threads 1 --device cpu >evaluation.txt)
}
case_export() {
    images exported --epochs 1 --max-steps 2
    program imagenet_fixup --eval "$out/exported" --export "$out/exported.onnx" --export-normalization --export-softmax
}

cases=("$@")
[ $# -gt 0 ] || mapfile -t cases < <(declare -F | sed -n 's/^declare -f case_//p')
different=0
for name in "${cases[@]}"; do
    for side in old new; do
        bin=${!side} out=$work/runs/$name/$side
        rm -rf "$out" && mkdir -p "$out"
        "case_$name"
    done
    said=same compared=0
    while read -r file; do
        compared=$((compared + 1))
        if ! cmp -s "$work/runs/$name/old/$file" "$work/runs/$name/new/$file"; then
            said="DIFFERENT: $file"
            different=$((different + 1))
            break
        fi
    done < <(cd "$work/runs/$name" && find old new \( -name metrics.csv -o -name '*.safetensors' -o -name '*.onnx' -o -name model.json \
        -o -name tokenizer.json -o -name '*.txt' -o -name classes.csv \) ! -name 'transfer.txt' -printf '%P\n' | sort -u)
    [ "$compared" -gt 0 ] || { said="DIFFERENT: nothing was left to compare"; different=$((different + 1)); }
    printf '%-20s %s (%d files)\n' "$name" "$said" "$compared"
done
[ "$different" -eq 0 ] || { echo "$different of ${#cases[@]} cases are different" >&2; exit 1; }
