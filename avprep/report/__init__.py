"""The report: one page that shows what an output holds, how it was cropped, what was dropped and why.

    ledgers, plan, scores -> summary  -> counts, histograms, chosen clips
    chosen clips          -> players  -> mp4, strip of frames, mel picture
    training folder       -> training -> curves, pictures
    all of it             -> page     -> index.html (+ media/), or one file

Everything read is untrusted: what cannot be read is listed on the page, and the page is written.
"""
