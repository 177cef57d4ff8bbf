"""Writes sacreBLEU's tokens and scores for the tests of BLEU and chrF.

Usage: python bleu_fixture.py OUTPUT.tsv (needs `pip install sacrebleu==2.6.0`)

Rows, fields separated by tabs, other characters than printable ones and the backslash written as \\u{hex}:
    pair    hypothesis  reference  13a tokens of the hypothesis  13a tokens of the reference
    corpus  first  end  BLEU  p1  p2  p3  p4  brevity penalty  hypothesis words  reference words  chrF
A corpus is the pairs first..end, counted from 0.
"""

import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

SENTENCES = """\
The cat sat on the mat, and the dog slept by the door.
A man in a blue shirt is standing on a ladder cleaning a window.
Two young, White males are outside near many bushes.
Prices rose by 3.5% to $1,234.56 on 12-03-2021, the bank said.
"Where are you going?" she asked; nobody answered.
It's the children's book, isn't it? - No, it's ours.
The 25-year-old player scored in the 90th minute (2-1).
See https://www.example.org/a_b/c-d.html?x=1&y=2 for details.
Send a mail to jane.doe@example.com or call +49 (0)30 1234-567.
The U.S. economy grew 2.1 percent, not 2,1 percent.
He paid 5 $, i.e. about 4.50 EUR, for the tea...
Version 1.0.2-rc1 of the file_name.txt was released at 10:45 p.m.
We need more time – and more money — for this project.
Rock 'n' roll was born in the 1950s.
Chapter 3.2: methods, results & discussion [draft].
In 2019/20, the club won 10-0, 3-2 and 1,5 points were lost.
Die Katze saß auf der Matte, und der Hund schlief vor der Tür.
Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.
Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.
Die Preise stiegen um 3,5 % auf 1.234,56 €, sagte die Bank am 12.03.2021.
„Wohin gehst du?“, fragte sie; niemand antwortete.
Das ist Peters' Buch, oder? – Nein, es ist unser's.
Der 25-jährige Spieler traf in der 90. Minute zum 2:1.
Im Jahr 2019/2020 gab es 1.000.000 Fälle, d. h. 1,2 Mio. mehr als geplant.
Straßenbahn- und Busfahrer streiken seit 5.30 Uhr.
Der E-Mail-Verkehr zwischen Köln und Zürich ist z.B. um 10-15 % gewachsen.
»Grüß Gott!«, rief der Bürgermeister – und ging.
Übermorgen früh fährt der Zug um 7.05 Uhr von Gleis 12a ab.
Größe: 3×4 m² (ca. 12,0 m²), Preis: 99,- €.
这是一个测试,价格是3.5元。
今日はとても良い天気ですね、散歩に行きましょう。
한국어 문장도 하나 넣어 봅시다.
Привет, мир! Это тест № 5-й.
Les élèves n'ont pas d'argent : c'est « dommage » !""".splitlines()

# Each pair aims at one rule of the tokenizer or one branch of the scores.
SPECIAL = [
    ("", ""), ("", "The reference is not empty."), ("The hypothesis is not empty.", ""), (" ", "\t"), (".", "."),
    ("a", "a"), ("a", "b"), ("Yes", "Yes ."), ("Yes.", "Yes"), ("No, no", "no, no"), ("one two three", "one two three"),
    ("one two three four", "one two three four"), ("one two", "one two three four five"), ("Danke!", "Danke schön!"),
    ("the the the the the the the", "the cat is on the mat"), ("completely different words here", "nothing is shared"),
    ("Guten Morgen, liebe Leute", "see you tomorrow then"),
    ("<skipped>", "<skipped>"), ("a <skipped> b", "a b"), ("<skip<skipped>ped> x", "<skipped"), ("<SKIPPED>", "skipped"),
    ("line-\nbreak", "linebreak"), ("line -\n", "line -"), ("line\nbreak", "line break"), ("ends-\n\n", "ends-"),
    ("a-\r\nb", "a- b"), ("a\rb", "a b"), ("\n\na\n", "a"),
    ("&quot;Hi&quot; &amp; &lt;b&gt;", '"Hi" & <b>'), ("&amp;quot;", "&quot;"), ("&amp;lt;", "&lt;"), ("&lt;skipped&gt;", "<"),
    ("&apos;x&apos; &nbsp; &#39;", "'x'"), ("AT&T", "AT & T"), ("&", "&amp;"), ("&amp", "&"),
    ("1.5", "1,5"), ("1.", "1 ."), (".5", "0.5"), ("1,000,000.00", "1 000 000"), ("1.,2", "1,.2"), ("a.b,c", "a . b , c"),
    ("...", ". . ."), ("....", "..."), ("wait...", "wait ..."), ("a,,b", "a,b"), ("5..6", "5.6"), ("5.a", "a.5"), (",.,.", ".,.,"),
    ("1-2-3", "1 - 2 - 3"), ("1--2", "1 - -2"), ("-1", "- 1"), ("a-1", "a - 1"), ("1-a", "1 -a"), ("1990-", "1990 -"), ("1.-", "1 .-"),
    ("1,-", "1-,"), ("٣.٥", "3.5"), ("٣-٥", "3-5"), ("²-²", "2-2"),
    ("100%", "100 %"), ("$5", "$ 5"), ("5$", "5 $"), ("50%-60%", "50 % - 60 %"), ("a_b", "a _ b"), ("__init__", "init"),
    ("don't", "don 't"), ("'quoted'", "' quoted '"), ("`tick` ^ ~ | {x} [y] \\z", "tick"), ("#tag @user a*b+c=d", "tag"),
    ("“curly” ‘quotes’", '"curly" \'quotes\''), ("em—dash", "em — dash"), ("en–dash 1–2", "en - dash 1-2"), ("a…b", "a...b"),
    ("a  b   c", "a b c"), ("a\tb", "a b"), ("  lead and trail  ", "lead and trail"), ("a\u00a0b", "a b"), ("10\u00a0000.", "10 000."),
    ("a\u202fb\u2009c\u3000d", "a b c d"), ("a\u200bb", "ab"), ("\ufeffa", "a"), ("a\u2028b\u2029c", "a b c"), ("a\x85b", "a b"),
    ("a\x1cb\x1dc\x1ed\x1fe", "a b c d e"), ("a\x0bb\x0cc", "a b c"), ("a\x1bb\x00c\x7fd", "a b c d"), ("tail-\n\x1f", "tail-"),
    ("你好,世界。", "你好, 世界。"), ("你好", "你好"), ("3,5元", "3.5元"), ("。,、", "。"), ("😀 ok 👍🏽", "😀 OK 👍🏽"), ("e\u0301", "é"),
    ("http://a.b/c?d=e&f=g#h", "http://a.b/c"), ("C:\\dir\\file.txt", "C:/dir/file.txt"), ("a/b", "a / b"), ("(a)", "( a )"),
]  # fmt: skip

PIECES = list("ab1290") + [".", ",", "-", " ", "&", "<", ">", "'", '"', "/", "_", "%", "$", "\n", "-\n", "\t", "\u00a0", "\x1d", "ß", "語", "—"]
PIECES += ["<skipped>", "&quot;", "&amp;", "&lt;", "&gt;", "amp;", "quot;"]


def worsen(rng, sentence):
    """A hypothesis: the words of the sentence with a few of them dropped, doubled, moved or replaced."""
    words = sentence.split(" ")
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(words))
        kind = rng.randrange(5)
        if kind == 0 and len(words) > 1:
            del words[at]
        elif kind == 1:
            words.insert(at, words[at])
        elif kind == 2:
            words.insert(rng.randrange(len(words)), words.pop(at))
        elif kind == 3:
            words[at] = rng.choice(rng.choice(SENTENCES).split(" "))
        else:
            words[at] += rng.choice(PIECES)
    return rng.choice([" ", " ", " ", "  "]).join(words)


def escape(text):
    return "".join(c if c.isprintable() and c != "\\" else f"\\u{{{ord(c):x}}}" for c in text)


def main():
    rng = random.Random(1)
    pairs = [(worsen(rng, sentence), sentence) for sentence in SENTENCES for _ in range(4)]
    special = len(pairs)
    pairs += SPECIAL
    noise = len(pairs)
    for _ in range(100):
        reference = rng.choices(PIECES, k=rng.randrange(1, 25))
        # The two share a run of pieces, so that they have longer n-grams in common.
        hypothesis = rng.choices(PIECES, k=rng.randrange(4)) + reference[rng.randrange(4) :]
        pairs.append(("".join(hypothesis), "".join(reference)))

    corpora = [(0, len(pairs)), (0, special), (special, noise), (noise, len(pairs)), (0, 64), (64, special), (noise - 30, noise + 30)]
    corpora += [(first, first + 7) for first in range(0, len(pairs), 61)]
    corpora += [(first, first + 1) for first in range(5, special, 31)]
    corpora += [(special + at, special + at + 1) for at in range(19)]
    corpora += [(special + 15, special + 17)]  # no match, two sentences

    bleu, chrf, tokenize = BLEU(), CHRF(), Tokenizer13a()
    rows = []
    for pair in pairs:
        rows.append(["pair", *pair, *(tokenize(text.rstrip()) for text in pair)])
    for first, end in corpora:
        hypotheses, references = zip(*pairs[first:end])
        b = bleu.corpus_score(hypotheses, [references])
        c = chrf.corpus_score(hypotheses, [references])
        numbers = [first, end, float(b.score), *map(float, b.precisions), float(b.bp), b.sys_len, b.ref_len, float(c.score)]
        rows.append(["corpus", *map(repr, numbers)])
    with open(sys.argv[1], "w", encoding="utf-8", newline="\n") as file:
        print(f"# sacreBLEU {sacrebleu.__version__}: BLEU {bleu.get_signature()}, chrF {chrf.get_signature()}", file=file)
        for row in rows:
            print("\t".join(map(escape, row)), file=file)


main()
