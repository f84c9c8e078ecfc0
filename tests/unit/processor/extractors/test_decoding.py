"""Files as they come: without a word about their encoding, broken in places, in whatever language."""

from pathlib import Path

import pytest

from bucketline.extraction import PermanentError
from processor.extractors.decoding import detect_encoding

SENTENCES = {
    "cp1252": (
        "Le café est très bon à Noël, garçon. Où êtes-vous?",
        "Die Straße ist schön und größer als früher. Äpfel, Öl und Übungen.",
        "El niño comió piña en el jardín. ¿Dónde está la estación?",
        "A informação não está disponível. São Paulo é grande.",
        "Jag är från Malmö och tycker om räksmörgås. Åsa äter ägg.",
        "Perché la città è così bella? Più tardi andrò là.",
        "Hyvää päivää, mitä kuuluu? Tänään on kaunis ilma.",
        "Það er gott veður í dag. Þú ert æðislegur, vinur minn.",
        "“Smart quotes” – and the €uro’s price: don’t guess…",
        "café",
    ),
    "cp1250": (
        "Zażółć gęślą jaźń. Źdźbło trawy leży na łące.",
        "Příliš žluťoučký kůň úpěl ďábelské ódy.",
        "Árvíztűrő tükörfúrógép. Köszönöm szépen.",
    ),
    "iso8859_2": ("Zażółć gęślą jaźń. Źdźbło trawy leży na łące.",),
    "cp1254": ("Şu köşe yaz köşesi, şu köşe kış köşesi. İstanbul'da yağmur yağıyor.",),
    "cp1257": ("Ąžuolas, ėmė ir šoko per ūkanas, čiulbėjo žąsys.",),
    "cp1251": ("Это русский текст, который нужно распознать правильно.",),
    "koi8_r": ("Это русский текст, который нужно распознать правильно.",),
    "cp1253": ("Αυτό είναι ένα ελληνικό κείμενο που πρέπει να αναγνωριστεί.",),
    "shift_jis": ("これは日本語のテキストです。文字コードの判定を試します。",),
    "gb18030": ("这是中文文本。编码检测应当正确识别。",),
    "euc_kr": ("이것은 한국어 텍스트입니다. 인코딩을 감지해야 합니다.",),
}


def decoded(folder: Path, content: bytes) -> str:
    path = folder / "file"
    path.write_bytes(content)
    return content.decode(detect_encoding(path, "'file'"), "replace")


@pytest.mark.parametrize(("codec", "text"), [(codec, text) for codec, texts in SENTENCES.items() for text in texts])
def test_a_sentence_is_enough(tmp_path: Path, codec: str, text: str) -> None:
    assert decoded(tmp_path, text.encode(codec)) == text


def test_what_is_not_ascii_may_come_late(tmp_path: Path) -> None:
    text = "x" * 300_000 + " Où êtes-vous? Le café est très bon."
    assert decoded(tmp_path, text.encode("cp1252")) == text


def test_a_broken_byte_does_not_make_utf8_something_else(tmp_path: Path) -> None:
    text = "a naïve word, " * 500
    assert decoded(tmp_path, text.encode() + b"\xff the end") == f"{text}\ufffd the end"
    assert decoded(tmp_path, "naïve café".encode()[:-1]) == "naïve caf\ufffd", "cut in the middle of a letter"


def test_a_stray_zero_byte_is_text_and_many_are_not(tmp_path: Path) -> None:
    assert decoded(tmp_path, b"a,b\n1,\0\n") == "a,b\n1,\0\n"
    chinese = "这是中文文本。编码检测应当正确识别。\n" * 20
    assert decoded(tmp_path, chinese.encode("utf-16-le")) == chinese
    for binary in (bytes(range(256)) * 20, b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x03\x00>\x00\x01\x00" * 50):
        with pytest.raises(PermanentError, match="'file' is not a text file"):
            decoded(tmp_path, binary)
