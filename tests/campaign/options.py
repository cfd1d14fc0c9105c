{
  "model": "vim_nano",
  "method": "minmax",
  "bits": "w4a4",
  "scope": "lin",
  "calib": "noise:2",
  "data": "scenes:2",
  "n": 2,
  "mode": "isolated",
  "by": "group",
  "fp_top1": 0.0,
  "whole": {
    "kl": 0.00028573151346718783,
    "top1_drop": 0.0,
    "sqnr_db": 13.063509160927406
  },
  "rows": [
    {
      "name": "layers.0 linear.in",
      "block": "layers.0",
      "kind": "linear.in",
      "sites": 6,
      "bits": [
        4
      ],
      "kl": 0.00039124111856854947,
      "top1_drop": 0.0,
      "sqnr_db": 11.69326540450044,
      "isolated_kl": 0.00039124111856854947
    },
    {
      "name": "layers.1 linear.in",
      "block": "layers.1",
      "kind": "linear.in",
      "sites": 6,
      "bits": [
        4
      ],
      "kl": 0.00022113690703150896,
      "top1_drop": 0.0,
      "sqnr_db": 14.933108379661007,
      "isolated_kl": 0.00022113690703150896
    },
    {
      "name": "layers.0 linear.weight",
      "block": "layers.0",
      "kind": "linear.weight",
      "sites": 6,
      "bits": [
        4
      ],
      "kl": 2.7229114639315923e-05,
      "top1_drop": 0.0,
      "sqnr_db": 23.47010482958457,
      "isolated_kl": 2.7229114639315923e-05
    },
    {
      "name": "layers.1 linear.weight",
      "block": "layers.1",
      "kind": "linear.weight",
      "sites": 6,
      "bits": [
        4
      ],
      "kl": 1.2475441371091332e-05,
      "top1_drop": 0.0,
      "sqnr_db": 27.384690739612687,
      "isolated_kl": 1.2475441371091332e-05
    }
  ],
  "seconds": 0.1,
  "seed": 0,
  "device": "AMD EPYC, 1 threads",
  "versions": {
    "python": "3.11.7",
    "ouro": "0.1.0",
    "torch": "2.13.0+cpu",
    "numba": "0.68.1",
    "triton": "3.7.1"
  },
  "commit": "7dd42a0"
}
