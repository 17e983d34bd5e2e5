"""Makes `tiny/tokenizer.model`, the tokenizer of the model inside the package: 256 bytes and 256 merges.

Byte-level BPE is trained as it is used. Cut the text into pieces with the split pattern, spell each piece in bytes, and
repeat: count every neighbouring pair, join the most frequent one everywhere, give the union the next free rank.

    "aaab" → (a,a) is seen twice → "aa" gets rank 256 → "aa a b"

Ties go to the pair that sorts first, so that the file is the same on every machine:

    python -m llama4.assets.make_tokenizer

Source: Sennrich et al., arXiv 1508.07909. The text below was written for this purpose: one small paragraph in each of
sixteen languages (a vocabulary this small mostly learns the frequent pairs of their scripts), then code and numbers.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import regex

from llama4.tokenizer import Tokenizer
from llama4.tokenizer_files import SPLIT_PATTERN, Ranks

MERGES = 256
OUTPUT = Path(__file__).parent / "tiny" / "tokenizer.model"

TEXT = """
The little model reads the words of a question, and then it writes an answer, one piece at a time. What is in this
picture? There is a red square on the left and a blue circle on the right. How many colours can you see? I can see three
of them: red, green and blue. The sun is above the house, and the cat is sleeping under the tree near the water.
Please describe the image in two sentences. It shows a small green triangle below a large yellow circle.

Le petit modèle lit les mots de la question, puis il écrit une réponse. Il y a un carré rouge à gauche et un cercle bleu
à droite. Le chat dort sous l'arbre, près de la maison. Combien de couleurs vois-tu dans cette image ?

Das kleine Modell liest die Wörter der Frage und schreibt dann eine Antwort. Links ist ein rotes Quadrat und rechts ein
blauer Kreis. Die Katze schläft unter dem Baum neben dem Haus. Wie viele Farben siehst du auf diesem Bild?

Il piccolo modello legge le parole della domanda e poi scrive una risposta. A sinistra c'è un quadrato rosso e a destra
un cerchio blu. Il gatto dorme sotto l'albero vicino alla casa. Quanti colori vedi in questa immagine?

O pequeno modelo lê as palavras da pergunta e depois escreve uma resposta. À esquerda há um quadrado vermelho e à
direita um círculo azul. O gato dorme debaixo da árvore perto da casa. Quantas cores você vê nesta imagem?

El pequeño modelo lee las palabras de la pregunta y luego escribe una respuesta. A la izquierda hay un cuadrado rojo y a
la derecha un círculo azul. El gato duerme bajo el árbol cerca de la casa. ¿Cuántos colores ves en esta imagen?

Model kecil itu membaca kata-kata dalam pertanyaan lalu menulis jawaban. Di sebelah kiri ada persegi merah dan di
sebelah kanan ada lingkaran biru. Kucing tidur di bawah pohon dekat rumah. Ada berapa warna dalam gambar ini?

Binabasa ng maliit na modelo ang mga salita ng tanong at saka ito nagsusulat ng sagot. Nasa kaliwa ang pulang parisukat
at nasa kanan ang asul na bilog. Natutulog ang pusa sa ilalim ng puno. Ilan ang mga kulay sa larawang ito?

Mô hình nhỏ đọc các từ của câu hỏi rồi viết câu trả lời. Bên trái có một hình vuông màu đỏ và bên phải có một hình tròn
màu xanh. Con mèo ngủ dưới gốc cây gần ngôi nhà. Bạn thấy bao nhiêu màu trong bức ảnh này?

Маленькая модель читает слова вопроса, а потом пишет ответ. Слева красный квадрат, а справа синий круг. Кошка спит под
деревом рядом с домом. Сколько цветов ты видишь на этой картинке?

يقرأ النموذج الصغير كلمات السؤال ثم يكتب الجواب. على اليسار مربع أحمر وعلى اليمين دائرة زرقاء. تنام القطة تحت الشجرة
بالقرب من البيت. كم لونا ترى في هذه الصورة؟

छोटा मॉडल सवाल के शब्द पढ़ता है और फिर जवाब लिखता है। बाईं ओर लाल वर्ग है और दाईं ओर नीला गोला है। बिल्ली घर के पास पेड़ के
नीचे सो रही है। इस तस्वीर में कितने रंग हैं?

โมเดลเล็กอ่านคำในคำถามแล้วเขียนคำตอบ ด้านซ้ายมีสี่เหลี่ยมสีแดงและด้านขวามีวงกลมสีน้ำเงิน แมวนอนใต้ต้นไม้ใกล้บ้าน ในภาพนี้มีกี่สี

小模型读出问题里的字,然后写出回答。左边是红色的方块,右边是蓝色的圆。猫在房子旁边的树下睡觉。
这张图片里有几种颜色?

小さなモデルは質問の言葉を読んで、それから答えを書きます。左に赤い四角、右に青い丸があります。
猫は家の近くの木の下で寝ています。この絵には何色ありますか?

작은 모델은 질문의 단어를 읽고 나서 답을 씁니다.
왼쪽에는 빨간 사각형이 있고 오른쪽에는 파란 원이 있습니다. 고양이는 집 옆 나무 아래에서 잡니다.

def add(left: int, right: int) -> int:
    return left + right

for number in range(10):
    print(number, number * number)
{"name": "get_weather", "parameters": {"city": "Paris"}}
0 1 2 3 4 5 6 7 8 9 10 16 20 32 64 100 128 256 512 1000 2024 2025
"""


def train(text: str, merges: int) -> Ranks:
    """Ranks of byte-level BPE on `text`: the bytes 0 … 255 in order, then `merges` unions in the order they were made."""
    pieces = Counter(tuple(bytes([byte]) for byte in piece.encode()) for piece in regex.findall(SPLIT_PATTERN, text))
    ranks = {bytes([byte]): byte for byte in range(256)}
    for _ in range(merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for piece, count in pieces.items():
            for pair in pairwise(piece):
                pairs[pair] += count
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        ranks[left + right] = len(ranks)
        pieces = Counter({_join(piece, left, right): count for piece, count in pieces.items()})
    return ranks


def _join(piece: tuple[bytes, ...], left: bytes, right: bytes) -> tuple[bytes, ...]:
    """`piece` with each `left`, `right` made one token, from the left: "a a a" becomes "aa a"."""
    joined: list[bytes] = []
    position = 0
    while position < len(piece):
        together = piece[position : position + 2] == (left, right)
        joined.append(left + right if together else piece[position])
        position += 2 if together else 1
    return tuple(joined)


def main() -> None:
    """Train, and write the file beside this script (or to the path given)."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(train(TEXT, MERGES))
    tokenizer.save(path)
    print(f"{path}: {tokenizer.vocab_size - len(tokenizer.special_tokens)} ranks, vocabulary {tokenizer.vocab_size}")


if __name__ == "__main__":
    main()
