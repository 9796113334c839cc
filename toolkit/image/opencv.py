"""OpenCV as all our code uses it: one thread, and without Intel's IPP.

Threads: a task is one core, and sums must not depend on how many there are. IPP: it picks its code by processor, and
its norm returns the square of a rounded root, which is off by one on real photographs (measured, OpenCV 5.0); OpenCV's
own sums of integers are exact. Modules write `from toolkit.image.opencv import cv2`.
"""

from __future__ import annotations

import cv2

cv2.setNumThreads(1)
cv2.ipp.setUseIPP(False)

__all__ = ["cv2"]
