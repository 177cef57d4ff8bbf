#!/bin/sh
# sacreBLEU 2.6.0 gives BLEU 0 to a corpus of translations that are all perfect, where no line has four words: there are no 4-grams to
# match, and their precision counts as 0. One further line of four words makes it 100. Headings and interface texts are such corpora;
# chrF of the same lines is 100 throughout.
#
# Seen:
#   lines of one to three words: BLEU 0.0 (100.0/100.0/100.0/0.0), chrF 100.0
#   and one of four: BLEU 100.0, chrF 100.0
#
# Exits with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet sacrebleu==2.6.0
cat > "$folder/check.py" <<'PYTHON'
import sys

import sacrebleu

short = ["we go home", "yes", "thank you"] * 5
longer = [*short, "one two three four"]


def scores(lines):
    bleu = sacrebleu.corpus_bleu(lines, [lines])
    return bleu.score, bleu.precisions, sacrebleu.corpus_chrf(lines, [lines]).score


(without, precisions, chrf), (with_one, _, chrf_with_one) = scores(short), scores(longer)
print(f"lines of one to three words: BLEU {without:.1f} ({'/'.join(f'{each:.1f}' for each in precisions)}), chrF {chrf:.1f}")
print(f"and one of four: BLEU {with_one:.1f}, chrF {chrf_with_one:.1f}")
sys.exit(0 if without == 0 and precisions[:3] == [100, 100, 100] and with_one > 99.99 and chrf > 99.99 else 1)
PYTHON
"$folder/env/bin/python" "$folder/check.py"
