"""The benchmark: what a frozen embedding knows, against rivals, on one fixed protocol."""
