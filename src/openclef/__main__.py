"""`python -m openclef`, which is also what torchrun starts."""

from openclef.cli import main

main()
