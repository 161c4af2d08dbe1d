"""The publications that the built-in learners cite, as BibTeX."""

__all__ = ['MARSCHALL', 'WANG', 'WILLIAMS']

WANG = """
@article{wang2026modelagnostic,
  author  = {Wang, Chaoming and Dong, Xingsi and Ji, Zilong and Xiao, Mingqing and
             Jiang, Jiedong and Liu, Xiao and Huan, Yuxiang and Wu, Si},
  title   = {Model-agnostic linear-memory online learning in spiking neural networks},
  journal = {Nature Communications},
  volume  = {17},
  pages   = {1745},
  year    = {2026},
  doi     = {10.1038/s41467-026-68453-w},
}
"""

WILLIAMS = """
@article{williams1989learning,
  author  = {Williams, Ronald J. and Zipser, David},
  title   = {A Learning Algorithm for Continually Running Fully Recurrent Neural Networks},
  journal = {Neural Computation},
  volume  = {1},
  number  = {2},
  pages   = {270--280},
  year    = {1989},
  doi     = {10.1162/neco.1989.1.2.270},
}
"""

MARSCHALL = """
@article{marschall2020unified,
  author  = {Marschall, Owen and Cho, Kyunghyun and Savin, Cristina},
  title   = {A Unified Framework of Online Learning Algorithms for Training Recurrent
             Neural Networks},
  journal = {Journal of Machine Learning Research},
  volume  = {21},
  number  = {135},
  pages   = {1--34},
  year    = {2020},
}
"""
