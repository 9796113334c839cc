"""From addresses to image files: the guarded downloader, host names and robots.txt, opt-outs."""
