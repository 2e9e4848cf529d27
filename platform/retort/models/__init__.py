"""Models: whatever has weights, a tokenizer, pooling, padding or a device. No Ray in here.

backend.py        device, precision (measured, never assumed), autocast
attention.py      the attention function that all models here run, and the recording of its queries and keys
loading.py        Hugging Face folders -> modules and tokenizers, with clear errors
tokenising.py     texts -> token ids and character offsets; texts that cannot be encoded
batching.py       batches of like length within a token budget
pooling.py        token states -> one vector
dual_encoder.py   DualEncoder: texts -> vectors; passage_space
inference.py      how encoding runs: backend, padding, layout of weights
unpadded.py       texts end to end in one row, for GPUs
packed.py         linear layers laid out for inference on a CPU
flat.py           BERT bodies laid out for inference on a CPU, without their modules
cross_encoder.py  CrossEncoder: (query, passage) -> logit and word map
pairs.py          (query, passage) -> token sequences, long passages in windows
alignment.py      tokens -> words; pooling matrices
word_maps.py      the word-level map: dense <-> compact bytes, and the tensors that a loss needs
judgements.py     reading what a teacher said
imports.py        local folders, hub ids and "minilm" -> artefacts
fakes.py          encoders with checkable answers, and tiny models with random weights
"""
