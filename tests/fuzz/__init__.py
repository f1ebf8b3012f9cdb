"""Damaged videos put through every route that runs here, each in a process of its own with limits.

    python -m tests.fuzz.run --num-files 1500 --seed 1 --json fuzz.json

Twelve seed videos, whose frames show their own numbers (:mod:`hard_videos`), are damaged in ways that a number decides
(:mod:`fuzz.mutate`), so that any file can be made again: ``--only 17 --keep FOLDER`` makes and keeps the seventeenth.
:mod:`fuzz.judge` says of each file and route:

* reported: a ValueError that names the file
* right: every delivered frame is, to the bit, the one of the undamaged video that belongs there
* slight: it differs by less than an encoder's noise
* concealed: it shows the right number and differs, or shows none
* wrong: it shows another number
* exception, crash, hang, memory

and whether FFmpeg knows of the damage when it is asked to be strict (:func:`hard_videos.strict_complaint`). What is
concealed or wrong although FFmpeg knows, and the last four, make the run fail. A file may be damaged and be a valid
video of other content; where FFmpeg is silent, nobody can know.
"""
