"""Files for tuning vision-language models, as labels: LLaVA, LLaMA-Factory and ms-swift."""
