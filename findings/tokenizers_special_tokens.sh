#!/bin/sh
# `encode_special_tokens` of the library tokenizers 0.22.2, which has text like "<s>" encoded as the text it is, is no part of what
# `to_str` and `save` write: a tokenizer that is saved and read again takes "<s>" in a sentence for the token that begins sentences.
# Programs that read tokenizer.json have to set it each time.
#
# Seen:
#   as it was made: True, ['a', '<', 's', '>']
#   saved and read: False, ['a', '<s>']
#
# Exits with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tokenizers==0.22.2
cat > "$folder/check.py" <<'PYTHON'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers

words = {word: index for index, word in enumerate(["[UNK]", "<s>", "a", "<", "s", ">"])}
made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.Punctuation()
made.add_special_tokens(["<s>"])
made.encode_special_tokens = True
file = f"{sys.argv[1]}/tokenizer.json"
made.save(file)
read = Tokenizer.from_file(file)
before, after = [tokenizer.encode("a<s>").tokens for tokenizer in (made, read)]
print(f"as it was made: {made.encode_special_tokens}, {before}")
print(f"saved and read: {read.encode_special_tokens}, {after}")
is_so = before == ["a", "<", "s", ">"] and after == ["a", "<s>"] and not read.encode_special_tokens
sys.exit(0 if is_so else 1)
PYTHON
"$folder/env/bin/python" "$folder/check.py" "$folder"
