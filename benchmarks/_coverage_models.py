"""The models of `surgery_coverage.py`, by name.

Weights are random. Every constant tensor (norms, biases, layer scales, zero-initialised gates) is drawn anew,
linear layers are scaled to keep the variance of what goes in, and batch norm's statistics are those of one batch:
a model whose branches are multiplied by 0 or 1e-6, or whose attention is all but uniform, would agree with
anything. Encoders get a small head, since an output of the model's width could not be cut.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

SHARED = Path(__file__).resolve().parents[2] / "shared"
Inputs = Callable[[int], Any]
"""batch -> what the model is called with, the same numbers each time."""
MIXED = {"transformers/fnet": {64}}
"""Widths that a Fourier transform runs along: with fewer numbers it is another transform."""
CLASSES, VOCABULARY, POSITIONS, TOKENS, IMAGE = 5, 211, 53, 11, 64


def names(held_out: bool = False) -> list[str]:
    """Return every model of the benchmark, or those that are tried beyond it (timm)."""
    if held_out:
        return [f"timm/{name}" for name in TIMM]
    models = _torchvision()
    found = [f"torchvision/{name}" for name in models.list_models(module=models)]
    found += [f"segmentation/{name}" for name in models.list_models(module=models.segmentation)]
    found += [f"video/{name}" for name in models.list_models(module=models.video)]
    return found + [f"transformers/{name}" for name in TRANSFORMERS]


def build(name: str, *, attention: str | None = None) -> tuple[nn.Module, Inputs]:
    """Return a model in eval mode, the same weights each time, and its inputs.

    attention: how transformers' models attend ("eager" or their own default).
    """
    family, _, kind = name.partition("/")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = _FAMILIES[family](kind, attention) if family == "transformers" else _FAMILIES[family](kind)
    liven(model, inputs)
    return model.eval(), inputs


def given_sizes(name: str) -> set[int]:
    """Return the sizes that no pruning may halve: classes, vocabulary, positions, image channels."""
    family = name.partition("/")[0]
    if family == "transformers":
        return {CLASSES, VOCABULARY, POSITIONS, TOKENS, 1, 2, 3, 80} | MIXED.get(name, set())
    classes = {"torchvision": 1000, "segmentation": 21, "video": 400, "timm": 1000}[family]
    return {classes, 1, 2, 3}


def liven(model: nn.Module, inputs: Inputs) -> None:
    """Scale up faint linear layers, draw constant parameters anew, measure batch norm on one batch."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            _scale_up(module)
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                first = float(parameter.view(-1)[0])
                if bool((parameter == first).all()):
                    low, high = (0.5, 1.5) if first else (-0.1, 0.1)
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * (high - low) + low)
        _measure_batch_norms(model, inputs(4))


def _scale_up(module: nn.Module) -> None:
    """Scale the weight of a linear layer to the standard deviation that keeps variance, where it is below."""
    weight = getattr(module, "weight", None)
    linear, transposed = isinstance(module, nn.Linear), hasattr(module, "nf")  # transformers' Conv1D: (in, out)
    if isinstance(weight, nn.Parameter) and (linear or transposed) and weight.numel() > 1:
        wanted, spread = weight.shape[1 if linear else 0] ** -0.5, float(weight.std())
        if 0 < spread < wanted:
            weight.mul_(wanted / spread)


def _measure_batch_norms(model: nn.Module, batch: Any) -> None:
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, kinds) and m.running_mean is not None]
    if not norms:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    _call(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_var.clamp_(min=1e-2)


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def _torchvision() -> Any:
    """Import torchvision's models beside a CPU build of torch."""
    if "torchvision" not in sys.modules:
        sys.path.append(str(SHARED / "tools"))
        import torchvision_beside_cpu_torch  # noqa: F401 (it registers operators, and must stay imported)

    import torchvision.models as models

    return models


def _noise(*shape: int) -> Inputs:
    def inputs(batch: int) -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(batch)])

    return inputs


def _classifier(kind: str) -> tuple[nn.Module, Inputs]:
    more = {"init_weights": True} if kind in ("googlenet", "inception_v3") else {}
    model = _torchvision().get_model(kind, weights=None, **more)
    size = 299 if kind == "inception_v3" else 224
    return model, _noise(3, size, size)


def _segmenter(kind: str) -> tuple[nn.Module, Inputs]:
    return _torchvision().get_model(kind, weights=None, weights_backbone=None), _noise(3, 224, 224)


def _video(kind: str) -> tuple[nn.Module, Inputs]:
    size = 224 if kind.startswith(("mvit", "swin3d", "s3d")) else 112
    return _torchvision().get_model(kind, weights=None), _noise(3, 16, size, size)


def _timm(kind: str) -> tuple[nn.Module, Inputs]:
    _torchvision()
    import timm

    model = timm.create_model(kind, pretrained=False, num_classes=1000)
    return model, _noise(*model.default_cfg["input_size"])


class _Only(nn.Module):
    """A model of which one output is used: what else it returns would fix the width of its trunk."""

    def __init__(self, model: nn.Module, field: str):
        super().__init__()
        self.model, self.field = model, field

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs)[self.field]


class _Headed(nn.Module):
    """An encoder with a linear head on the mean of its tokens."""

    def __init__(self, model: nn.Module, width: int):
        super().__init__()
        self.model, self.head = model, nn.Linear(width, CLASSES)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.model(**inputs)[0]
        axes = tuple(range(2, hidden.dim())) if hidden.dim() == 4 else (1,)
        return self.head(hidden.mean(dim=axes))


def _transformer(kind: str, attention: str | None) -> tuple[nn.Module, Inputs]:
    _torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    config_name, model_name, field, inputs, changes = TRANSFORMERS[kind]
    config = getattr(transformers, config_name)(**changes)
    if attention is not None:
        config._attn_implementation = attention
    model = getattr(transformers, model_name)(config)
    if field:
        return _Only(model, field), inputs
    width = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size
    return _Headed(model, width), inputs


def _tokens(*more: str, length: int = TOKENS) -> Inputs:
    """Return inputs of token ids; `more` names further inputs: a mask of ones, or the decoder's ids."""

    def inputs(batch: int) -> dict[str, torch.Tensor]:
        rows = [
            torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(i))
            for i in range(batch)
        ]
        ids = torch.stack(rows)
        others = {"attention_mask": torch.ones_like(ids), "decoder_input_ids": ids.flip(1)}
        return {"input_ids": ids} | {name: others[name] for name in more}

    return inputs


def _named(name: str, *shape: int) -> Inputs:
    values = _noise(*shape)
    return lambda batch: {name: values(batch)}


_H = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_FF = {"intermediate_size": 96}
_TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
_LM = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "pad_token_id": 0, "bos_token_id": 1,
       "eos_token_id": 2, "use_cache": False}  # fmt: skip
_IMAGE = {"image_size": IMAGE, "patch_size": 16, "num_channels": 3}
_LABELS = {"num_labels": CLASSES}
_PIXELS = _named("pixel_values", 3, IMAGE, IMAGE)
_WAVE = _named("input_values", 4000)
_SPEECH = {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4),
           "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0,
           "mask_time_prob": 0.0, "mask_feature_prob": 0.0,
           "apply_spec_augment": False, "classifier_proj_size": 40}  # fmt: skip
_BERT = {**_H, **_FF, **_TEXT, **_LABELS}
_KV = {"num_key_value_heads": 2}

TRANSFORMERS: dict[str, tuple[str, str, str, Inputs, dict[str, Any]]] = {
    # name: (config, model, the output that is used or "" for a head of our own, inputs, changes of the config)
    "bert": ("BertConfig", "BertForSequenceClassification", "logits", _tokens("attention_mask"), _BERT),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", "logits", _tokens(), _BERT),
    "xlm_roberta": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", "logits", _tokens(), _BERT),
    "camembert": ("CamembertConfig", "CamembertForTokenClassification", "logits", _tokens(), _BERT),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification", "logits", _tokens("attention_mask"),
                   {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, **_TEXT, **_LABELS}),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", "logits", _tokens(),
               {**_BERT, "embedding_size": 32}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", "logits", _tokens(),
                {**_BERT, "embedding_size": 32}),
    "deberta": ("DebertaConfig", "DebertaForSequenceClassification", "logits", _tokens(), _BERT),
    "deberta_v2": ("DebertaV2Config", "DebertaV2ForSequenceClassification", "logits", _tokens(),
                   {**_BERT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}),
    "mobilebert": ("MobileBertConfig", "MobileBertForSequenceClassification", "logits", _tokens(),
                   {**_BERT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}),
    "squeezebert": ("SqueezeBertConfig", "SqueezeBertForSequenceClassification", "logits", _tokens(),
                    {**_BERT, "embedding_size": 64}),
    "mpnet": ("MPNetConfig", "MPNetForSequenceClassification", "logits", _tokens(), _BERT),
    "fnet": ("FNetConfig", "FNetForSequenceClassification", "logits", _tokens(),
             {k: v for k, v in _BERT.items() if k != "num_attention_heads"}),
    "modernbert": ("ModernBertConfig", "ModernBertForSequenceClassification", "logits", _tokens(),
                   {**_BERT, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", "logits", _tokens(),
             {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": POSITIONS, **_LM}),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", "logits", _tokens(),
                {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "window_size": 8,
                 "attention_types": [[["global", "local"], 1]], **_LM}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", "logits", _tokens(), {**_H, **_FF, **_LM}),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", "logits", _tokens(),
             {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": POSITIONS, "rotary_dim": 8,
              **_LM}),
    "opt": ("OPTConfig", "OPTForCausalLM", "logits", _tokens("attention_mask"),
            {**_H, "ffn_dim": 96, "word_embed_proj_dim": 64, **_LM}),
    "bloom": ("BloomConfig", "BloomForCausalLM", "logits", _tokens("attention_mask"),
              {"hidden_size": 64, "n_layer": 2, "n_head": 4, **_LM}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM}),
    "mistral": ("MistralConfig", "MistralForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", "logits", _tokens(),
                {**_H, **_FF, **_KV, **_LM, "num_local_experts": 4}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM, "head_dim": 16}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM, "head_dim": 16}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", "logits", _tokens(),
               {**_H, **_FF, **_KV, **_LM, "head_dim": 16, "sliding_window": 8}),
    "phi": ("PhiConfig", "PhiForCausalLM", "logits", _tokens(), {**_H, **_FF, **_LM}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM}),
    "falcon": ("FalconConfig", "FalconForCausalLM", "logits", _tokens(), {**_H, **_LM, "ffn_hidden_size": 96}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", "logits", _tokens(), {**_H, **_FF, **_KV, **_LM}),
    "mamba": ("MambaConfig", "MambaForCausalLM", "logits", _tokens(),
              {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, **_LM}),
    "t5": ("T5Config", "T5ForConditionalGeneration", "logits", _tokens("decoder_input_ids"),
           {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
            "use_cache": False}),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", "logits", _tokens("decoder_input_ids"),
            {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
             "use_cache": False}),
    "bart": ("BartConfig", "BartForConditionalGeneration", "logits", _tokens("decoder_input_ids"),
             {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
              "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, **_LM}),
    "vit": ("ViTConfig", "ViTForImageClassification", "logits", _PIXELS, {**_H, **_FF, **_IMAGE, **_LABELS}),
    "deit": ("DeiTConfig", "DeiTForImageClassification", "logits", _PIXELS, {**_H, **_FF, **_IMAGE, **_LABELS}),
    "beit": ("BeitConfig", "BeitForImageClassification", "logits", _PIXELS,
             {**_H, **_FF, **_IMAGE, **_LABELS, "use_relative_position_bias": True}),
    "swin": ("SwinConfig", "SwinForImageClassification", "logits", _PIXELS,
             {"image_size": IMAGE, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4],
              "window_size": 4, **_LABELS}),
    "swinv2": ("Swinv2Config", "Swinv2ForImageClassification", "logits", _PIXELS,
               {"image_size": IMAGE, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4],
                "window_size": 4, **_LABELS}),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", "logits", _PIXELS,
                 {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": IMAGE, **_LABELS}),
    "convnextv2": ("ConvNextV2Config", "ConvNextV2ForImageClassification", "logits", _PIXELS,
                   {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": IMAGE, **_LABELS}),
    "segformer": ("SegformerConfig", "SegformerForSemanticSegmentation", "logits", _PIXELS,
                  {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4],
                   "decoder_hidden_size": 40, **_LABELS}),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", "logits", _PIXELS,
               {**_H, "mlp_ratio": 2, **_IMAGE, **_LABELS}),
    "clip_text": ("CLIPTextConfig", "CLIPTextModelWithProjection", "text_embeds", _tokens(),
                  {**_H, **_FF, **_LM, "projection_dim": CLASSES}),
    "clip_vision": ("CLIPVisionConfig", "CLIPVisionModelWithProjection", "image_embeds", _PIXELS,
                    {**_H, **_FF, **_IMAGE, "projection_dim": CLASSES}),
    "mobilevit": ("MobileViTConfig", "MobileViTForImageClassification", "logits", _PIXELS,
                  {"image_size": IMAGE, "hidden_sizes": [32, 48, 64],
                   "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96], **_LABELS}),
    "regnet": ("RegNetConfig", "RegNetForImageClassification", "logits", _PIXELS,
               {"hidden_sizes": [32, 64], "depths": [1, 2], "groups_width": 16, "embedding_size": 16, **_LABELS}),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", "logits", _WAVE,
                 {**_H, **_FF, **_SPEECH, **_LABELS, "vocab_size": VOCABULARY}),
    "hubert": ("HubertConfig", "HubertForSequenceClassification", "logits", _WAVE,
               {**_H, **_FF, **_SPEECH, **_LABELS, "vocab_size": VOCABULARY}),
    "whisper_encoder": ("WhisperConfig", "WhisperForAudioClassification", "logits",
                        _named("input_features", 80, 100),
                        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 96,
                         "max_source_positions": 50, "num_mel_bins": 80, "vocab_size": VOCABULARY,
                         "pad_token_id": 0,
                         "classifier_proj_size": 40, **_LABELS}),
    "ast": ("ASTConfig", "ASTForAudioClassification", "logits", _named("input_values", 100, 80),
            {**_H, **_FF, **_LABELS, "max_length": 100, "num_mel_bins": 80}),
}  # fmt: skip

TIMM = (
    "bat_resnext26ts", "beit_base_patch16_224", "botnet26t_256", "caformer_s18", "cait_xxs24_224",
    "coat_lite_tiny", "coatnet_0_rw_224", "convit_tiny", "convmixer_768_32", "crossvit_9_240", "cspresnet50",
    "davit_tiny", "dla34", "dpn68", "edgenext_xx_small", "efficientformer_l1", "efficientvit_b0",
    "efficientvit_m0", "ese_vovnet19b_dw", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_100", "gmixer_24_224", "gmlp_s16_224", "halonet26t",
    "hiera_tiny_224", "hrnet_w18_small", "inception_next_tiny", "lambda_resnet26t", "levit_128s",
    "mambaout_femto", "maxxvitv2_nano_rw_256", "mixer_s16_224", "mobilenetv4_conv_small", "mobileone_s0",
    "mobilevit_s", "mobilevitv2_050", "nest_tiny", "nextvit_small", "nf_resnet50", "nfnet_l0", "pit_ti_224",
    "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetv_040", "repvit_m1", "res2net50_26w_4s",
    "resmlp_12_224", "resnest14d", "rexnet_100", "selecsls42", "sequencer2d_s", "skresnet18", "starnet_s1",
    "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_patch16_224", "tresnet_m", "twins_pcpvt_small",
    "twins_svt_small", "visformer_tiny", "vit_relpos_small_patch16_224", "volo_d1_224", "xception41",
    "xcit_nano_12_p16_224",
)  # fmt: skip

_FAMILIES: dict[str, Callable[..., tuple[nn.Module, Inputs]]] = {
    "torchvision": _classifier,
    "segmentation": _segmenter,
    "video": _video,
    "timm": _timm,
    "transformers": _transformer,
}
