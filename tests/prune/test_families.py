"""A tiny model of every family, by hand: at a ratio of 0.5 the oracle holds and little more is left than must be.

The floor counts parameters with every width halved that does not fix the output or the input. Halving both the
heads and what each is wide leaves a quarter of the queries, keys and values, which is below it.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

SEED = torch.Generator().manual_seed(0)
IMAGE = torch.randn(1, 3, 8, 8, generator=SEED, dtype=torch.float64)
VIDEO = torch.randn(1, 2, 4, 6, 6, generator=SEED, dtype=torch.float64)
WORDS = torch.tensor([[1, 7, 3, 10, 0, 5]])
ATTENTION = {"*.query.*": (0, 1), "*.key.*": (0, 1), "words.weight": 1}


def left(pruned):
    return sum(parameter.numel() for parameter in pruned.model.parameters())


def linear(before, after):
    return after * (before + 1)


class Attention(nn.Module):
    def __init__(self, width, heads, *, bias=True):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.out = nn.Linear(width, width, bias=bias)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, memory=None, mask=0.0, scale=0.5):
        memory = x if memory is None else memory
        q, k, v = self.split(self.query(x)), self.split(self.key(memory)), self.split(self.value(memory))
        x = torch.softmax(q @ k.transpose(-1, -2) * scale + mask, -1) @ v
        return self.out(x.transpose(1, 2).flatten(2))


class Bert(nn.Module):
    """Words, positions and segments; norms behind the sums; a mask of what is padded; a pooled first word."""

    def __init__(self, width=16, inner=24):
        super().__init__()
        self.words, self.places, self.parts = (
            nn.Embedding(11, width),
            nn.Embedding(6, width),
            nn.Embedding(2, width),
        )
        self.norm, self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.dropout = Attention(width, 4), nn.Dropout(0.1)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.pool, self.classes = nn.Linear(width, width), nn.Linear(width, 3)
        self.register_buffer("position", torch.arange(6)[None])

    def forward(self, words, mask):
        x = (
            self.words(words)
            + self.places(self.position[:, : words.shape[1]])
            + self.parts(torch.zeros_like(words))
        )
        x = self.dropout(self.norm(x))
        hidden = (~mask[:, None, None, :]) * -1e4
        x = self.norm_1(x + self.dropout(self.attention(x, mask=hidden)))
        x = self.norm_2(x + self.down(F.gelu(self.up(x))))
        return x, self.classes(torch.tanh(self.pool(x[:, 0])))


def bert(width, attention, inner):
    norms, embeddings = 3 * 2 * width, (11 + 6 + 2) * width
    mixing = 3 * linear(width, attention) + linear(attention, width)
    return embeddings + norms + mixing + linear(width, inner) + linear(inner, width)


def test_an_encoder_of_words(oracle):
    mask = torch.tensor([[True, True, True, True, True, False]])
    example = {"words": WORDS, "mask": mask}
    norms = {"norm": -1, "norm_1": -1, "norm_2": -1}

    class Classified(Bert):
        def forward(self, words, mask):
            return super().forward(words, mask)[1]

    pruned = oracle(Classified(), example, reads=ATTENTION, over=norms, ratio=0.5, scope="local")
    floor = bert(8, 8, 12) + linear(8, 8) + linear(8, 3)
    assert left(pruned) <= 1.05 * floor and pruned.cuts.form == "module"
    # where the words themselves are given back, their width stays
    pruned = oracle(Bert(), example, reads=ATTENTION, over=norms, ratio=0.5, scope="local")
    assert left(pruned) <= 1.05 * (bert(16, 8, 12) + linear(16, 8) + linear(8, 3))


class Gpt(nn.Module):
    """Norms before the layers, a causal mask that is a buffer, and the words' own vectors for the output."""

    def __init__(self, width=16, inner=32, heads=4):
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Parameter(torch.zeros(6, width))
        self.norm_1, self.norm_2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("past", torch.tril(torch.ones(6, 6, dtype=torch.bool))[None, None])

    def forward(self, words):
        n, t = words.shape
        x = self.words(words) + self.places[:t]
        q, k, v = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        scores = (q @ k.transpose(-2, -1) * 0.5).masked_fill(~self.past[:, :, :t, :t], float("-inf"))
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, -1))
        x = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return self.head(self.norm(x))


def test_a_decoder_with_tied_words(oracle):
    reads = {"qkv.*": (0, 1), "words.weight": 1}
    norms = {"norm": -1, "norm_1": -1, "norm_2": -1}
    pruned = oracle(Gpt(), WORDS, reads=reads, over=norms, ratio=0.5, scope="local")
    width, attention, inner = 8, 8, 16
    floor = (11 + 6) * width + 3 * 2 * width + linear(width, 3 * attention) + linear(attention, width)
    floor += linear(width, inner) + linear(inner, width)
    assert left(pruned) <= 1.05 * floor
    assert pruned.model.head.weight is pruned.model.words.weight and pruned.model.words.weight.shape == (11, 8)


class Rms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Translator(nn.Module):
    """Encoder and decoder over one vocabulary, with a bias by distance for every head (T5)."""

    def __init__(self, width=16, inner=24):
        super().__init__()
        self.words = nn.Embedding(11, width)
        self.distance, self.back = nn.Embedding(8, 4), nn.Embedding(8, 4)
        self.encode, self.decode, self.cross = (Attention(width, 4, bias=False) for _ in range(3))
        for index in range(6):
            self.add_module(f"norm_{index}", Rms(width))
        self.up, self.gate, self.down = (
            nn.Linear(*s, bias=False) for s in ((width, inner),) * 2 + ((inner, width),)
        )
        self.wide, self.narrow = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def bias(self, table, x, causal):
        place = torch.arange(x.shape[1], device=x.device)
        between = (place[None, :] - place[:, None]).clamp(-3, 4) + 3
        bias = table(between).permute(2, 0, 1)[None]
        return bias.masked_fill(place[None, :] > place[:, None], -1e9) if causal else bias

    def forward(self, source, target):
        x = self.words(source)
        x = x + self.encode(self.norm_0(x), mask=self.bias(self.distance, x, False), scale=1.0)
        h = self.norm_1(x)
        memory = self.norm_2(x + self.down(F.gelu(self.gate(h)) * self.up(h)))
        y = self.words(target)
        y = y + self.decode(self.norm_3(y), mask=self.bias(self.back, y, True), scale=1.0)
        y = y + self.cross(self.norm_4(y), memory, scale=1.0)
        y = self.norm_5(y + self.narrow(F.relu(self.wide(y))))
        return {"logits": F.linear(y * 16**-0.5, self.words.weight)}


def test_an_encoder_and_a_decoder_with_named_inputs(oracle):
    example = {"source": WORDS, "target": WORDS.flip(1)[:, :4]}
    norms = {f"norm_{index}": -1 for index in range(6)}
    pruned = oracle(Translator(), example, reads=ATTENTION, over=norms, ratio=0.5, scope="local")
    width, attention, heads, inner = 8, 8, 2, 12
    floor = 11 * width + 2 * 8 * heads + 6 * width + 3 * 4 * width * attention + 5 * width * inner
    assert left(pruned) <= 1.05 * floor and pruned.model.distance.weight.shape == (8, 2)


class Tagger(nn.Module):
    def __init__(self, kind, layers, both):
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.rnn = kind(8, 12, num_layers=layers, bidirectional=both, batch_first=True)
        self.tags = nn.Linear(24 if both else 12, 3)

    def forward(self, words):
        return self.tags(self.rnn(self.words(words))[0])


@pytest.mark.parametrize(("kind", "gates", "layers", "both"), [(nn.LSTM, 4, 1, True), (nn.GRU, 3, 2, False)])
def test_taggers_that_recur(oracle, kind, gates, layers, both):
    pruned = oracle(Tagger(kind, layers, both), WORDS, ratio=0.5, scope="local")
    width, hidden, directions = 4, 6, 1 + both
    cells = sum(gates * hidden * ((width if i == 0 else hidden) + hidden + 2) for i in range(layers))
    assert left(pruned) <= 1.05 * (11 * width + directions * cells + linear(directions * hidden, 3))
    assert pruned.model.rnn.hidden_size == 6 and pruned.model.rnn.input_size == 4


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 12), (16, 8)))
        self.norm_a, self.norm_b, self.norm_c = nn.BatchNorm2d(8), nn.BatchNorm2d(12), nn.BatchNorm2d(8)
        self.up, self.out = nn.ConvTranspose2d(12, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = F.relu(self.norm_a(self.a(x)))
        y = F.relu(self.norm_b(self.b(F.max_pool2d(x, 2))))
        x = torch.cat([x, self.up(y)], 1)
        return self.out(F.relu(self.norm_c(self.c(x))))


def test_a_u_net(oracle):
    pruned = oracle(Unet(), IMAGE, ratio=0.5, scope="local")
    # 3 -> 4, 4 -> 6, 4 + 4 -> 4 of 3 x 3; 6 -> 4 of 2 x 2; 4 -> 2 of 1 x 1; norms
    floor = (4 * 28) + (6 * 37) + (4 * 73) + (6 * 4 * 4 + 4) + (2 * 5) + 2 * (4 + 6 + 4)
    assert left(pruned) <= 1.05 * floor and pruned.cuts.form == "module"


class Video(nn.Module):
    """Space and time apart, with a shortcut (R(2+1)D)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv3d(2, 8, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(8)
        self.space, self.time = (
            nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(12, 8, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.time(F.relu(self.space(x))))
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))


def test_a_net_over_video(oracle):
    pruned = oracle(Video(), VIDEO, ratio=0.5, scope="local")
    floor = 4 * (2 * 9 + 1) + 2 * 4 + 6 * (4 * 9 + 1) + 4 * (6 * 3 + 1) + linear(4, 3)
    assert left(pruned) <= 1.05 * floor and pruned.cuts.form == "module"


class Gate(nn.Module):
    """The two best experts of every word, with weights that add up to 1."""

    def forward(self, scores):
        best, chosen = torch.topk(torch.softmax(scores, -1), 2, -1)
        return torch.zeros_like(scores).scatter(-1, chosen, best / best.sum(-1, keepdim=True))


class Mixture(nn.Module):
    def __init__(self, width=8, experts=6, inner=10):
        super().__init__()
        self.words, self.norm, self.gate = nn.Embedding(11, width), nn.LayerNorm(width), Gate()
        self.router, self.head = nn.Linear(width, experts, bias=False), nn.Linear(width, 3)
        self.up, self.down = (
            nn.Parameter(torch.zeros(s)) for s in ((experts, width, inner), (experts, inner, width))
        )

    def forward(self, words):
        x = self.words(words)
        h = self.norm(x)
        inner = F.silu(torch.einsum("btd,edf->btef", h, self.up))
        each = torch.einsum("btef,efd->bted", inner, self.down)
        return self.head(x + torch.einsum("bted,bte->btd", each, self.gate(self.router(h))))


def test_a_mixture_of_experts(oracle):
    over = {"norm": -1, "gate": (-1, "router.weight")}
    reads = {"up": 1, "down": (0, 1)}
    pruned = oracle(Mixture(), WORDS, reads=reads, over=over, ratio=0.5, scope="local")
    width, experts, inner = 4, 3, 5
    floor = 11 * width + 2 * width + width * experts + 2 * experts * width * inner + linear(width, 3)
    assert left(pruned) <= 1.05 * floor and pruned.model.up.shape == (3, 4, 5)
