"""Does each part of the MDSA pay? The paper's Tables 5 and 6, at a stated budget: `avmodel ablate`.

Every variant is trained from the same seeds on the same clips in the same order, and measured on the same
held-out clips, so that differences are paired. In OUT:

    seed-N/VARIANT/mdsa.pt      the trained model
    seed-N/VARIANT/result.json  PSNR of each held-out clip: its presence means that the cell is finished
    ablation.json, .csv, .md    the table
"""
