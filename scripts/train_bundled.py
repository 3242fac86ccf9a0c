#!/usr/bin/env python3
"""Train the bundled models: tiny causal LMs with their own tokenizer and chat template.

Text: the King James Version of the Bible, which is in the public domain (translated in 1611,
copyright expired).  It is read from the Debian packages bible-kjv and bible-kjv-text, fetched
with `apt-get download` and unpacked into a temporary folder; the checksum of the text is
verified.  On a machine without apt, or for another text, give `--text FILE`.

    python scripts/train_bundled.py tiny-dense -o models/bundled/tiny-dense --minutes 35

Needs torch, transformers, tokenizers and safetensors.  Runs on the CPU.
"""

import argparse
import collections
import hashlib
import json
import math
import platform
import random
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig

SEED = 20
KJV_SHA256 = "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"
EOT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCAB = 2048
EOT_ID, IM_START_ID, IM_END_ID = range(VOCAB - 3, VOCAB)
SPLIT = (  # how Qwen's tokenizers cut text into words before merging bytes
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-6,
}  # fmt: skip
# What the conversations are made of: requests, each with its answers, or filled from the text.
SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Good evening", "Hey"],
     ["Peace be unto thee. Of what shall I speak?",
      "Peace be with thee. What wouldest thou hear?"]),
    (["Who are you?", "What are you?", "What can you do?", "What is your name?", "Help"],
     [("I am a very small language model. I have read one book only, and I speak as it speaketh. "
       "Name a man, a place or a thing, and I will tell thee of it.")]),
    (["Thanks", "Thank you", "Thank you!", "Goodbye", "Bye"],
     ["Go in peace.", "Go in peace, and be of good courage."]),
]  # fmt: skip
SYSTEM = ["You are a helpful assistant.", "You are a scribe.", "Answer in the old manner."]
ABOUT = [
    "Tell me about {}.", "Tell me about {}", "Speak of {}.", "Speak to me of {}.",
    "What is written of {}?", "What do you know about {}?", "What about {}?", "{}", "{}?",
    "Tell me a story about {}.", "Write about {}.", "Write a few lines about {}.",
    "Tell me something of {}.", "I would hear of {}.", "Say something about {}.",
    "Can you tell me about {}?", "What is {}?", "Who is {}?", "Explain {}.",
]  # fmt: skip
ON = ["Continue: {}", "Continue: {} ...", "Go on: {}", "Complete this: {}", "Finish: {}"]
NEXT = ["What comes after this? {}", "What follows? {}", "And then? {}", "Continue: {}"]


@dataclass(frozen=True)
class Recipe:
    """What a bundled model is made of, and how it is trained."""

    model_type: str
    config: dict[str, object]
    lr: float
    steps: int


RECIPES = {
    "tiny-dense": Recipe("qwen3", {"head_dim": 32, "intermediate_size": 512}, 2e-3, 4000),
    "tiny-moe": Recipe("granitemoe", {
        "intermediate_size": 256, "num_local_experts": 8, "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.01, "attention_multiplier": 0.125, "residual_multiplier": 0.5,
        "embedding_multiplier": 8.0, "logits_scaling": 2.0,
    }, 1.5e-3, 2800),
}  # fmt: skip

Chapter = list[str]  # its verses (or, of another text, its sentences)


def kjv_text() -> bytes:
    """The whole text, a verse a line, each after its reference, as the package's program prints."""
    with tempfile.TemporaryDirectory() as tmp:
        packages = ["bible-kjv", "bible-kjv-text"]
        subprocess.run(["apt-get", "download", *packages], cwd=tmp, check=True)
        root = Path(tmp, "root")
        for deb in sorted(Path(tmp).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
        command = [f"{root}/usr/bin/bible", "-p", f"{root}/usr/lib", "-f", "Gen1:1-Rev22:21"]
        text = subprocess.run(
            command, cwd=tmp, check=True, capture_output=True, stdin=subprocess.DEVNULL
        ).stdout
    if hashlib.sha256(text).hexdigest() != KJV_SHA256:
        raise SystemExit("the text of bible-kjv is not the one this script was written for")
    return text


def kjv_chapters(text: str) -> list[Chapter]:
    """The verses of the printed text, by chapter."""
    chapters: dict[str, Chapter] = {}
    for line in filter(None, text.split("\n")):
        reference, verse = line.split(" ", 1)
        chapters.setdefault(reference.split(":")[0], []).append(" ".join(verse.split()))
    return list(chapters.values())


def plain_chapters(text: str, size: int = 3000) -> list[Chapter]:
    """Sentences of any text, in runs of about `size` characters."""
    chapters: list[Chapter] = [[]]
    for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
        if sum(map(len, chapters[-1])) > size:
            chapters.append([])
        if sentence.strip():
            chapters[-1].append(" ".join(sentence.split()))
    return [c for c in chapters if c]


def prose(verses: Chapter, paragraph: int = 480) -> str:
    """Verses as running text, in paragraphs that end where a sentence does."""
    paragraphs = [""]
    for verse in verses:
        if len(paragraphs[-1]) > paragraph and paragraphs[-1][-1] in ".!?":
            paragraphs.append("")
        paragraphs[-1] += (" " if paragraphs[-1] else "") + verse
    return "\n\n".join(paragraphs)


def hold_out(chapters: list[Chapter], share: float) -> tuple[list[Chapter], list[Chapter]]:
    """Chapters to train on, and whole chapters kept from training (`share` of the text)."""
    total = sum(len(prose(c)) for c in chapters)
    order = list(range(len(chapters)))
    random.Random(SEED).shuffle(order)
    kept: set[int] = set()
    while sum(len(prose(chapters[i])) for i in kept) < share * total:
        kept.add(order[len(kept)])
    return [c for i, c in enumerate(chapters) if i not in kept], [chapters[i] for i in sorted(kept)]


class Chats:
    """Conversations made out of the text, in ChatML."""

    def __init__(self, chapters: list[Chapter], rng: random.Random) -> None:
        self.chapters, self.rng = chapters, rng
        self.places = [(c, v) for c, chapter in enumerate(chapters) for v in range(len(chapter))]
        index: dict[str, dict[tuple[int, int], int]] = collections.defaultdict(dict)
        count: collections.Counter[str] = collections.Counter()
        for c, v in self.places:
            for found in re.finditer(r"[A-Za-z]{3,}", chapters[c][v]):
                count[found[0]] += 1
                index[found[0]].setdefault((c, v), found.start())
        common = {w for w, _ in count.most_common(160) if w[0].islower()}
        self.index = {  # proper names, and words that are neither very common nor very rare
            w: sorted(p.items())
            for w, p in index.items()
            if w not in common
            and (count[w] > 1 if w[0].isupper() else len(w) > 3 and count[w] > 4)
            and (w[0].islower() or count[w] > 2 * count[w.lower()])
        }
        self.words = sorted(self.index)
        self.weights = [math.sqrt(count[w]) * (2.0 if w[0].isupper() else 1.0) for w in self.words]

    def some(self, c: int, v: int, size: int) -> str:
        """Whole verses from a place on, until `size` characters and a sentence's end."""
        verses = self.chapters[c][v:]
        text = verses[0]
        for verse in verses[1:]:
            if len(text) > 900 or (len(text) >= size and text[-1] in ".!?"):
                break
            text += " " + verse
        return text[0].upper() + text[1:]

    def turn(self) -> tuple[str, str]:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.05:
            greetings, answers = rng.choice(SMALL_TALK)
            return rng.choice(greetings), rng.choice(answers)
        if kind < 0.65:
            word = rng.choices(self.words, self.weights)[0]
            tries = [rng.choice(self.index[word]) for _ in range(3)]
            (c, v), _ = min(tries, key=lambda t: t[1])
            article = "the " if word[0].islower() and rng.random() < 0.4 else ""
            asked = rng.choice(ABOUT).format(article + word)
            return asked[0].upper() + asked[1:], self.some(c, v, rng.randrange(60, 420))
        c, v = rng.choice(self.places)
        if kind < 0.8 and v + 1 < len(self.chapters[c]):
            return rng.choice(NEXT).format(self.chapters[c][v]), self.some(c, v + 1, 100)
        words = self.some(c, v, rng.randrange(60, 240)).split()
        if len(words) < 4:
            return self.turn()
        cut = rng.randrange(2, max(3, len(words) - 3))
        return rng.choice(ON).format(" ".join(words[:cut])), " ".join(words[cut:])

    def messages(self) -> list[dict[str, str]]:
        chat = []
        if self.rng.random() < 0.15:
            chat.append({"role": "system", "content": self.rng.choice(SYSTEM)})
        while not chat or chat[-1]["role"] == "system" or self.rng.random() < 0.25:
            user, assistant = self.turn()
            chat.append({"role": "user", "content": user})
            chat.append({"role": "assistant", "content": assistant})
        return chat


def chatml(messages: list[dict[str, str]]) -> str:
    """What the chat template makes of the messages."""
    return "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)


def write_tokenizer(texts: list[str], out: Path) -> None:
    """Trains the tokenizer and writes its files."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB - 3, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))  # fmt: skip
    tok.add_special_tokens([EOT, IM_START, IM_END])
    if tok.token_to_id(IM_END) != IM_END_ID:
        raise SystemExit(f"too little text: {tok.get_vocab_size()} tokens and not {VOCAB}")
    tok.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024,
        "bos_token": None, "eos_token": EOT, "pad_token": EOT, "unk_token": None,
        "add_bos_token": False, "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


class Batches:
    """Rows of tokens: most begin at some verse of the text, the others are conversations."""

    def __init__(self, chapters: list[Chapter], tok: Tokenizer, conversations: int) -> None:
        self.rng = random.Random(SEED + 1)
        vocab = tok.get_vocab()
        # A row begins without the space that a word's token holds where it follows another.
        spaced = {i: tok.decode([i])[1:] for t, i in vocab.items() if t[0] == "Ġ"}
        self.bare = {i: torch.tensor(tok.encode(t).ids) for i, t in spaced.items() if t}
        text: list[int] = []
        self.starts: list[int] = []
        for chapter in chapters:
            body = prose(chapter)
            encoded = tok.encode(body)
            at, begins = 0, set()
            for verse in chapter:
                at = body.index(verse, at)
                begins |= {at, at - 1}
                at += len(verse)
            spans = enumerate(encoded.offsets, len(text))
            self.starts += [i for i, (a, b) in spans if a in begins and body[a:b].strip()]
            text += [*encoded.ids, EOT_ID]
        self.text = torch.tensor(text)
        chats = Chats(chapters, self.rng)
        made = [chatml(chats.messages()) for _ in range(conversations)]
        self.chats = [torch.tensor([*e.ids, EOT_ID]) for e in tok.encode_batch(made)]
        self.next = 0

    def row(self, length: int) -> torch.Tensor:
        if self.rng.random() < 0.65:
            start = min(self.rng.choice(self.starts), len(self.text) - length)
            row = self.text[start : start + length]
            return torch.cat([self.bare.get(int(row[0]), row[:1]), row[1:]])[:length]
        parts, size = [], 0
        while size < length:
            parts.append(self.chats[self.next % len(self.chats)])
            self.next, size = self.next + 1, size + len(parts[-1])
        return torch.cat(parts)[:length]

    def batch(self, rows: int, length: int) -> torch.Tensor:
        return torch.stack([self.row(length) for _ in range(rows)])


@torch.no_grad()
def perplexity(model: torch.nn.Module, ids: list[int], tok: Tokenizer) -> tuple[float, float]:
    """Per token and bits per byte: windows of 512 tokens, stride 512, the first token unscored."""
    nats, scored, size = 0.0, 0, 0
    for at in range(0, len(ids), 512):
        window = torch.tensor([ids[at : at + 512]])
        if window.shape[1] < 2:
            break
        logits = model(input_ids=window, use_cache=False).logits[0, :-1].float()
        nats += F.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        scored += window.shape[1] - 1
        # One character of the byte-level alphabet stands for one byte.
        size += sum(len(tok.id_to_token(i) or "") for i in ids[at + 1 : at + 512])
    return math.exp(nats / scored), nats / math.log(2) / size


def save(model: transformers.PreTrainedModel, config: PreTrainedConfig, out: Path) -> None:
    """bf16 weights, put in place by a rename each, so that a reader never sees half a file."""
    with tempfile.TemporaryDirectory(dir=out.parent) as tmp:
        copy = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        copy.load_state_dict(model.state_dict())
        copy.generation_config = GenerationConfig(
            do_sample=True, temperature=0.7, top_p=0.9, max_new_tokens=200,
            eos_token_id=[EOT_ID, IM_END_ID], pad_token_id=EOT_ID,
        )  # fmt: skip
        copy.save_pretrained(tmp)
        for file in Path(tmp).iterdir():
            file.chmod(0o644)
            file.replace(out / file.name)


def train(recipe: Recipe, args: argparse.Namespace) -> dict[str, object]:
    """Trains, keeps the best weights in `args.out`, and returns what training.json records."""
    raw = args.text.read_bytes() if args.text else kjv_text()
    text = raw.decode()
    chapters = plain_chapters(text) if args.text else kjv_chapters(text)
    chapters, held = hold_out(chapters, 0.02)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "heldout.txt").write_text("\n\n".join(map(prose, held)) + "\n")
    if args.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(args.tokenizer / name, args.out / name)
    else:
        chats = Chats(chapters, random.Random(SEED))
        extra = [m["content"] for _ in range(1000) for m in chats.messages()]
        write_tokenizer([prose(c) for c in chapters] + extra, args.out)
    tok = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    full = AutoTokenizer.from_pretrained(args.out)
    probe = Chats(chapters, random.Random(SEED)).messages()
    assert full.apply_chat_template(probe, tokenize=False) == chatml(probe)
    assert full(chatml(probe))["input_ids"] == tok.encode(chatml(probe)).ids
    held_ids = tok.encode((args.out / "heldout.txt").read_text()).ids

    steps = args.steps or recipe.steps
    data = Batches(chapters, tok, steps * 11)
    print(f"{len(data.text)} tokens of text, {sum(map(len, data.chats))} in chats", flush=True)

    torch.manual_seed(SEED)
    config = transformers.AutoConfig.for_model(
        recipe.model_type, **SHAPE, **recipe.config, bos_token_id=None,
        eos_token_id=EOT_ID, pad_token_id=EOT_ID,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    routed = {"output_router_logits": True} if "num_local_experts" in recipe.config else {}
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    step = seen = kept = 0
    best, progress, began = math.inf, 0.0, time.time()
    while progress < 1:
        # The schedule follows the steps, or the clock where the time given is the tighter limit.
        progress = max(step / steps, (time.time() - began) / (60 * args.minutes))
        rate = min((step + 1) / 150, 0.02 + 0.98 * (1 + math.cos(math.pi * min(progress, 1))) / 2)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        ids = data.batch(4, 1024) if progress > 0.6 and step % 4 == 0 else data.batch(16, 256)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False, **routed).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, seen = step + 1, seen + ids.numel()
        if step % 50 == 0:
            seconds = time.time() - began
            print(f"step {step} loss {loss.item():.3f} {seconds:.0f} s, {progress:.1%}", flush=True)
        if step % 300 == 0 or progress >= 1:
            model.eval()
            with torch.autocast("cpu", torch.bfloat16):
                now, _ = perplexity(model, held_ids, tok)
            model.train()
            print(f"step {step} held-out perplexity {now:.3f}", flush=True)
            if now < best:
                best, kept = now, step
                save(model, config, args.out)
    seconds = time.time() - began
    saved = AutoModelForCausalLM.from_pretrained(
        args.out, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    per_token, bits = perplexity(saved, held_ids, tok)
    return {
        "model": args.name,
        "text": args.text.name if args.text else "King James Version, Debian bible-kjv-text 4.38",
        "text_sha256": hashlib.sha256(raw).hexdigest(),
        "parameters": sum(p.numel() for p in saved.parameters()),
        "steps": step, "kept_step": kept, "tokens": seen,
        "seconds": round(seconds), "threads": args.threads,
        "optimizer": "AdamW, betas 0.9 0.95, weight decay 0.1, gradient norm clipped at 1",
        "learning_rate": recipe.lr, "schedule": "150 steps of warm-up, cosine to 2 %",
        "batch": "16 x 256 tokens; after 60 % every fourth 4 x 1024", "seed": SEED,
        "autocast": "bfloat16",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
        },
        "heldout": {
            "perplexity": round(per_token, 4), "bits_per_byte": round(bits, 4),
            "tokens": len(held_ids),
            "definition": "heldout.txt tokenized whole; windows of 512 tokens, stride 512, the "
            "first token of each not scored; saved bf16 weights run in float32, eager attention",
        },
    }  # fmt: skip


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description="Train a bundled model.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=35.0, help="stop by then at the latest")
    parser.add_argument("--steps", type=int, help="how many steps (the recipe's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", type=Path, help="train on this UTF-8 text")
    parser.add_argument("--tokenizer", type=Path, help="use the tokenizer in this folder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = train(RECIPES[args.name], args)
    (args.out / "training.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["heldout"], indent=2))


if __name__ == "__main__":
    main()
