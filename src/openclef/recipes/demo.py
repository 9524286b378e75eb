"""The demo: the paper's chain at a size that two CPU cores train in minutes.

Paper: arXiv 2605.10817. Command: `openclef demo --out runs/demo`, or `openclef run SRC --recipe
demo --out RUN`. What shrinks against the paper: 1,024 codes for 8,192; widths; 4 + 1 layers for
12 + 8; a sentence encoder with 2-layer towers for T5 with 4; 256 random tokens of each window in
alignment; steps by the hundred. What stays: 2,048 tokens of the whole session, masking, losses,
order of the stages. Expected time and scores: results/.
"""

from __future__ import annotations

from openclef.alignment.contrastive import AlignmentConfig
from openclef.alignment.ehr import EhrTowerConfig
from openclef.alignment.text import TextTowerConfig
from openclef.alignment.train import AlignmentStage
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cohort.splits import SplitConfig
from openclef.encoder.objective import EncoderLossConfig
from openclef.encoder.train import EncoderStage
from openclef.encoder.transformer import EncoderConfig
from openclef.recipes.recipe import Recipe
from openclef.tokenizer.objective import TokenizerLossConfig
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.train import TokenizerStage
from openclef.tokenizer.vqgan import TokenizerConfig
from openclef.training.loop import TrainConfig
from openclef.training.optim import OptimConfig


def recipe() -> Recipe:
    """The demo's whole configuration."""
    tokenizer = TokenizerConfig(
        strides=((4, 5), (2, 1), (2, 1)),
        widths=(48, 96, 96),
        n_blocks=1,
        attention=False,
        quantiser=EmaConfig(n_codes=1024, decay=0.9),
        norm_decay=0.9,
    )
    encoder = EncoderConfig(
        n_codes=tokenizer.quantiser.n_codes,
        grid=tokenizer.grid,
        width=128,
        n_heads=2,
        n_encoder_layers=4,
        n_decoder_layers=1,
    )
    return Recipe(
        name="demo",
        # More held-out patients than the default: few tasks could be resolved otherwise.
        splits=SplitConfig(train=0.4, probe=0.2, tuning=0.1, held_out=0.3),
        tokenizer=TokenizerStage(
            model=tokenizer,
            loss=TokenizerLossConfig(adversary_width=16),
            train=TrainConfig(
                n_steps=150,
                batch_size=4,
                precision="auto",
                optim=OptimConfig(lr=1e-3, weight_decay=1e-4),
            ),
            n_validation=16,
        ),
        encoder=EncoderStage(
            model=encoder,
            loss=EncoderLossConfig(),
            train=TrainConfig(
                n_steps=100,
                batch_size=4,
                precision="auto",
                optim=OptimConfig(lr=2e-3),
                validate_every=25,
            ),
            n_validation=16,
        ),
        alignment=AlignmentStage(
            model=AlignmentConfig(
                n_keep=256,
                text=TextTowerConfig(width=128, n_heads=4, n_layers=2),
                ehr=EhrTowerConfig(width=128, n_heads=4, n_layers=2),
            ),
            train=TrainConfig(
                n_steps=30,
                batch_size=32,
                precision="auto",
                optim=OptimConfig(lr=1e-4, weight_decay=0.1, clip_norm=5.0),
                validate_every=5,
                checkpoint_every=10,
            ),
        ),
        pooling="moments",
        benchmark=BenchmarkConfig(),
    )
