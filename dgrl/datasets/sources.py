"""Where the official archives are: mirrors in the order they are tried, and how to know the file.

Nobody publishes SHA-256 digests of these archives. The MD5 digests are those that open-reid
(https://github.com/Cysu/open-reid, reid/datasets) checks its downloads against.
"""

from dgrl.datasets.fetch import RemoteFile

SOURCES = {
    "viper": RemoteFile(
        name="VIPeR.v1.0.zip",
        mirrors=(
            "https://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
            "http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
        ),
        page="https://vision.soe.ucsc.edu/node/178",
        md5="1c2d9fc1cc800332567a0da25a1ce68c",
    ),
    "caviar": RemoteFile(
        name="CAVIAR4REID.zip",
        mirrors=(),
        page="https://www.lorisbazzani.info/caviar4reid.html",
    ),
    "market1501": RemoteFile(
        name="Market-1501-v15.09.15.zip",
        mirrors=(
            "https://drive.usercontent.google.com/download?id=0B8-rUzbwVRk0c054eEozWG9COHM&export=download&confirm=t",
            "https://www.dropbox.com/s/5gypc42z6vdbbtu/Market-1501-v15.09.15.zip?dl=1",
        ),
        page="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
        md5="65005ab7d12ec1c44de4eeafe813e68a",
    ),
    "cuhk03": RemoteFile(
        name="cuhk03_release.zip",
        mirrors=(),  # a form must be filled in
        page="https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
        md5="728939e58ad9f0ff53e521857dd8fb43",
    ),
}
