"""Files as they come: without a word about their encoding, broken in places, in whatever language."""

from pathlib import Path

import pytest

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.decoding import detect_encoding

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
        "naïve",
        "price: £5",
        "±5 µm at 50 °C, 3 × 4 ÷ 2",
    ),
    "cp1250": (
        "Zażółć gęślą jaźń. Źdźbło trawy leży na łące.",
        "Příliš žluťoučký kůň úpěl ďábelské ódy.",
        "Árvíztűrő tükörfúrógép. Köszönöm szépen.",
    ),
    "iso8859_2": ("Zażółć gęślą jaźń. Źdźbło trawy leży na łące.",),
    "cp1254": ("Şu köşe yaz köşesi, şu köşe kış köşesi. İstanbul'da yağmur yağıyor.",),
    "cp1257": ("Ąžuolas, ėmė ir šoko per ūkanas, čiulbėjo žąsys.",),
    "cp1251": ("Это русский текст, который нужно распознать правильно.", "привет, мир", "Привет"),
    "koi8_r": ("Это русский текст, который нужно распознать правильно.", "привет", "Привет, мир"),
    "cp866": ("Это русский текст, который нужно распознать правильно.",),
    "cp1253": ("Αυτό είναι ένα ελληνικό κείμενο που πρέπει να αναγνωριστεί.",),
    "cp1255": ("שלום עולם, זהו טקסט בעברית",),
    "cp1256": ("هذا نص باللغة العربية يجب التعرف عليه",),
    "cp874": ("นี่คือข้อความภาษาไทย",),
    "shift_jis": ("これは日本語のテキストです。文字コードの判定を試します。", "東京都"),
    "euc_jp": ("これは日本語のテキストです。",),
    "iso2022_jp": ("件名: お知らせ\n本日の会議は中止です。", "plain lines first\n" * 9000 + "会議"),
    "big5": ("這是中文文本。編碼檢測應當正確識別。",),
    "gb18030": ("这是中文文本。编码检测应当正确识别。",),
    "euc_kr": ("이것은 한국어 텍스트입니다. 인코딩을 감지해야 합니다.",),
}


def decoded(folder: Path, content: bytes, charset: str | None = None) -> str:
    path = folder / "file"
    path.write_bytes(content)
    with path.open(encoding=detect_encoding(path, "'file'", charset), errors="replace", newline="") as file:
        return file.read()


@pytest.mark.parametrize(("codec", "text"), [(codec, text) for codec, texts in SENTENCES.items() for text in texts])
def test_a_sentence_is_enough(tmp_path: Path, codec: str, text: str) -> None:
    assert decoded(tmp_path, text.encode(codec)) == text


def test_encoding_is_detected_from_late_bytes(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("привет, мир".encode("cp1251"), "windows-1251", "привет, мир"),
        ("Łódź, źle".encode("iso8859_2"), "iso-8859-2", "Łódź, źle"),
        ("café".encode("cp1252"), "us-ascii", "café"),
        ("①髙﨑".encode("cp932"), "shift_jis", "①髙﨑"),
        ("HELLO WORLD".encode("cp037"), "cp037", "HELLO WORLD"),
        ("中文网页".encode("hz"), "hz-gb-2312", "中文网页"),
        ("naïve".encode("utf-16-be"), "utf-16be", "naïve"),
        # the declaration is kept though a byte is broken, as browsers keep it
        ("привет, мир ".encode() + b"\xff", "utf-8", "привет, мир \ufffd"),
        (b"na\xc3\xafve", "windows-1252", "naÃ¯ve"),
        # a byte order mark, or the zeros of UTF-16, come before it
        ("\ufeffnaïve".encode(), "windows-1251", "naïve"),
        ("two bytes each".encode("utf-16-le"), "utf-8", "two bytes each"),
        # what is mostly broken under it was not written in it
        ("Это русский текст".encode("cp1251"), "utf-8", "Это русский текст"),
        ("naïve".encode(), "no-such-charset", "naïve"),
    ],
)
def test_declared_charset_comes_before_guessing(tmp_path: Path, content: bytes, charset: str, text: str) -> None:
    assert decoded(tmp_path, content, charset) == text


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("HELLO WORLD THIS IS MAINFRAME 12345".encode("cp037"), "seems to be EBCDIC; declare its code page"),
        ("Sehr geehrte Damen und Herren, anbei die Rechnung.".encode("cp273"), "seems to be EBCDIC"),
        (bytes.fromhex("d4ddff91e1b0") * 9, "cannot be determined from its bytes; declare it"),
        (bytes(range(256)), "is not a text file"),
    ],
)
def test_text_that_cannot_be_decoded_is_an_error_that_names_the_remedy(
    tmp_path: Path, content: bytes, error: str
) -> None:
    with pytest.raises(PermanentError, match=error):
        decoded(tmp_path, content)


def test_a_few_broken_bytes_in_ascii_are_replaced(tmp_path: Path) -> None:
    log = b"GET /index.html 200\n" * 200 + b"\x9d\x81\x8f\x90\n"
    assert decoded(tmp_path, log).startswith("GET /index.html 200\n")
