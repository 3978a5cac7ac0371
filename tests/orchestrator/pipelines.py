"""Pipelines small enough to run whole in a test."""

TINY = """
name: tiny
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 600}
  features: {kind: train_features, data: data, steps: 40, network: {channels: 8, features: 16}}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 400, shard_size: 100,
     solver: {kind: euler, steps: 10}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 2], blocks: 1}
    steps: 60
    batch_size: 64
    learning_rate: 2e-3
    workers: 1
    log_every: 10
  one_step:
    {kind: distill, pairs: pairs, start: student, guide: student, steps: 30, batch_size: 64,
     learning_rate: 1e-3, workers: 1, log_every: 10}
  student_2:
    {kind: evaluate, model: student, data: data, features: features, samples: 200,
     solver: {kind: euler, steps: 2}}
  quality: {kind: evaluate, model: one_step, data: data, features: features, samples: 200}
"""
