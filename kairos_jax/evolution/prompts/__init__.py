"""Prompts that are aligned with a model: roll out, judge, rewrite, keep what is better (the paper's section 5.2).

tree       what was tried for one prompt, and what came of it
rewriters  who says what to try next: a vision-language model, or slots of a sentence that are changed by chance
wishes     prompts for the embedded simulator, whose truth is known
align      the loop, many prompts at once, and best-of-N beside it
page       the trees, to be looked at
"""
